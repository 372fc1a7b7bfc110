"""Tells workers which role to take: the shell around the pure controller."""

from __future__ import annotations

import asyncio
import logging

from router.fleet.fleet import Fleet
from router.roles.controller import INTERVAL_S, RoleChange, RoleController
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
        self._log(change)

    def _log(self, change: RoleChange) -> None:
        view = self._controller.outlook
        assert view is not None
        log.info(
            "model %r: %s becomes a %s worker: %.1f requests/s come, the present roles serve %.1f, "
            "%d prefill workers would serve %.1f",
            self._fleet.model,
            change.ref.worker_id,
            change.role.value,
            view.requests_per_s,
            view.present,
            view.num_prefill,
            view.best,
        )
