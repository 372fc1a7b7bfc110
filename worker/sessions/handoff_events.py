"""Takes what happens on the sessions between workers to the step loop and to the links."""

from __future__ import annotations

from runtime.session import OpenedSession
from wire.handoff import Handoff
from worker.sessions.links import Links
from worker.steps.step_context import Peer
from worker.steps.step_loop import StepLoop


class HandoffEvents:
    """Implements `worker.sessions.peer_book.PeerEvents`; called on the event loop."""

    def __init__(self, steps: StepLoop, links: Links) -> None:
        self._steps = steps
        self._links = links

    def on_message(self, message: Handoff, peer: Peer) -> None:
        self._steps.on_peer_message(message, peer)

    def on_connected(self, peer: Peer, opened: OpenedSession) -> None:
        self._links.open(peer, opened.card, opened.admissions)

    async def on_destination_lost(self, peer: Peer, cause: str) -> None:
        self.on_unreachable(peer, cause)
        await self._links.close(peer)

    def on_unreachable(self, peer: Peer, cause: str) -> None:
        self._steps.call(lambda: self._steps.source_handoffs.peer_lost(peer, cause))
