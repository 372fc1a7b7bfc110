"""Tells workers which role to take: the shell around the pure controller."""

from __future__ import annotations

import asyncio
import logging

from router.errors import InvalidRequest, Unavailable
from router.fleet.fleet import Fleet
from router.fleet.member import Member
from router.roles.controller import INTERVAL_S, RoleController
from router.roles.decision import describe
from runtime.session import SessionClosed
from wire.identity import Role
from wire.messages import SetRole

log = logging.getLogger("tandem.router.roles")


class RoleKeeper:
    """Keeps the roles of one model's workers.

    Of several routers the one with the lowest id decides, among those that have submitted requests
    lately: a router that gets none knows no workload. It sees the sizes of its own requests, and
    the rate of all, which workers report. When that router ends, its sessions with the workers do,
    and the next one goes on.
    """

    def __init__(self, fleet: Fleet, *, follows: bool) -> None:
        self.follows = follows
        """Whether roles follow the load; otherwise they change when somebody asks for it."""
        self._fleet = fleet
        self._controller = RoleController()

    @property
    def controller(self) -> RoleController:
        """Decides, and remembers why; only the deciding router's has a history."""
        return self._controller

    def ask(self, member: Member, role: Role) -> None:
        """Tell a worker to take the role, and keep it until it ends or is told another.

        Raises InvalidRequest where roles follow the load, which would take it back.
        """
        if self.follows:
            raise InvalidRequest(
                f"roles of {self._fleet.model!r} follow the load, which would take the change "
                "back: set router.roles to fixed to choose them yourself",
                "role",
            )
        if not self._tell(member, role):
            raise Unavailable(f"worker {member.ref.worker_id} is not connected now")
        log.info("%s was asked to become a %s worker", member.ref.worker_id, role.value)

    async def keep(self) -> None:
        """Decide every INTERVAL_S, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self.decide()

    def decide(self) -> None:
        """Change the role of one worker, if another assignment is better."""
        ledger = self._fleet.ledger
        if min(ledger.router_ids()) != self._fleet.router_id:
            return
        change = self._controller.decide(ledger, self._fleet.clock.now())
        member = None if change is None else self._fleet.member(change.ref)
        if change is None or member is None or not self._tell(member, change.role):
            return  # the next decision counts without a worker that is lost
        log.info("model %r: %s", self._fleet.model, describe(self._controller.history[-1]))

    def _tell(self, member: Member, role: Role) -> bool:
        """False if the worker is not connected. The ledger counts with the role from now on."""
        try:
            member.send(SetRole(role=role))
        except SessionClosed:
            return False
        member.ledger.set_role(member.ref, role)
        return True
