"""Announces a worker to routers, which take it into their fleets or say why not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from runtime.fleet import announce
from runtime.names import for_each_address
from runtime.tls import MutualTls
from wire.messages import WorkerCard


class FleetMembership:
    """Announces this worker to every router again and again, as a heartbeat.

    Lives on the event loop, with one task for each router name.
    """

    def __init__(self, routers: tuple[str, ...], tls: MutualTls | None) -> None:
        self._routers = routers
        self._tls = tls
        self._tasks: list[asyncio.Task[None]] = []
        self._refusals: dict[str, str] = {}

    @property
    def refusal(self) -> str | None:
        """Why a router does not take this worker; None where none refuses."""
        return next(iter(self._refusals.values()), None)

    def start(self, card: WorkerCard) -> None:
        """Announce this card to every address of every router."""

        def announce_to(address: str) -> Coroutine[Any, Any, None]:
            return announce(
                address, lambda: card, lambda ok: None, self._tls, partial(self._refused, address)
            )

        for router in self._routers:
            announcing = for_each_address(router, announce_to)
            self._tasks.append(asyncio.create_task(announcing, name=f"join {router}"))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _refused(self, router: str, why: str | None) -> None:
        if why is None:
            self._refusals.pop(router, None)
        else:
            self._refusals[router] = why
