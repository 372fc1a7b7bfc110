"""Messages from the step loop's thread to sessions on the event loop: one wake-up a turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from runtime.session import Session, SessionClosed
from wire.handoff import Handoff
from wire.messages import Destination, Message
from worker.sessions.peer_book import PeerBook


class SessionOutbox:
    """Implements `worker.steps.step_context.Outbox`; messages to one receiver keep their order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, peers: PeerBook) -> None:
        self.routers: dict[str, Session] = {}
        """Open sessions by router; changed on the event loop only."""
        self._loop = loop
        self._peers = peers
        self._pending: list[Callable[[], None]] = []

    def to_router(self, router_id: str, message: Message) -> None:
        self._pending.append(lambda: self._send(router_id, message))

    def to_routers(self, message: Message) -> None:
        self._pending.append(lambda: self._broadcast(message))

    def to_worker(self, peer: Destination, message: Handoff) -> None:
        self._pending.append(lambda: self._peers.send(peer, message))

    def over_link(self, link: str, message: Handoff) -> None:
        self._pending.append(lambda: self._peers.send_over(link, message))

    def cut_link(self, link: str, cause: str) -> None:
        self._pending.append(lambda: self._peers.hang_up(link, cause))

    def flush(self) -> None:
        if self._pending:
            batch, self._pending = self._pending, []
            self._loop.call_soon_threadsafe(_run_all, batch)

    def _broadcast(self, message: Message) -> None:
        for router_id in list(self.routers):
            self._send(router_id, message)

    def _send(self, router_id: str, message: Message) -> None:
        session = self.routers.get(router_id)
        try:
            if session is not None:
                session.send(message)
        except SessionClosed:
            pass  # its attempts end with the session, where that is handled


def _run_all(batch: list[Callable[[], None]]) -> None:
    for send in batch:
        send()
