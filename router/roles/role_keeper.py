"""Tells workers which role to take: the shell around the pure controller."""

from __future__ import annotations

import asyncio
import logging

from router.fleet.fleet import Fleet
from router.roles.controller import INTERVAL_S, RoleController
from router.roles.decision import describe
from runtime.session import SessionClosed
from wire.messages import SetRole

log = logging.getLogger("tandem.router.roles")


class RoleKeeper:
    """Keeps the roles of one model's workers.

    Of several routers the one with the lowest id decides, among those whose requests the workers
    have. They share what comes to one port, so each sees the same workload. When that router ends,
    its sessions with the workers do, and the next one goes on.
    """

    def __init__(self, fleet: Fleet, router_id: str) -> None:
        self._fleet = fleet
        self._router_id = router_id
        self._controller = RoleController()

    @property
    def controller(self) -> RoleController:
        """Decides, and remembers why; only the deciding router's has a history."""
        return self._controller

    async def keep(self) -> None:
        """Decide every INTERVAL_S, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self.decide()

    def decide(self) -> None:
        """Change the role of one worker, if another assignment is better."""
        ledger = self._fleet.ledger
        if min(ledger.router_ids()) != self._router_id:
            return
        change = self._controller.decide(ledger, self._fleet.clock.now())
        member = None if change is None else self._fleet.member(change.ref)
        if change is None or member is None:
            return
        try:
            member.send(SetRole(role=change.role))
        except SessionClosed:
            return  # the next decision counts without it
        ledger.set_role(change.ref, change.role)
        log.info("model %r: %s", self._fleet.model, describe(self._controller.history[-1]))
