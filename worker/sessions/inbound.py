"""Sessions of the workers that hand sequences to this one: admitted, served, fenced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from kv_transfer.endpoints.endpoint import Endpoint
from kv_transfer.handoff.destination import DestinationHandoff
from kv_transfer.layout.head_routes import CannotExchange
from runtime.session import Session
from wire.identity import WorkerRef
from wire.layout import KvLayout
from wire.messages import Hello, Welcome, WorkerCard
from worker.sessions.peer_book import PeerBook
from worker.sessions.write_guard import WriteGuard
from worker.steps.call_queue import Call
from worker.steps.destination_handoffs import DestinationHandoffs
from worker.steps.step_context import Peer

T = TypeVar("T")


@dataclass(slots=True)
class _InboundSession:
    """One session of one source, from its Hello until its link is fenced."""

    session: Session
    write_guard: WriteGuard
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the link is fenced."""


class InboundSessions:
    """Lives on the event loop; `call` queues a callback for the step loop's thread.

    When a source's session ends, whatever the cause, the pool is closed to it at once. Blocks that
    were granted to it are freed when nothing of it can land any more: with that, unless it has
    processes on this host with direct access to this worker's memory. Those must have ended, or the
    source must have opened a new session, which it does only when its writes are over; they are
    killed if neither happens.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        peers: PeerBook,
        handoffs: DestinationHandoffs,
        call: Call,
        *,
        fence_deadline_s: float,
    ) -> None:
        self._endpoint = endpoint
        self._peers = peers
        self._handoffs = handoffs
        self._call = call
        self._fence_deadline_s = fence_deadline_s
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[WorkerRef, _InboundSession] = {}

    async def serve(self, hello: Hello, session: Session, card: WorkerCard) -> None:
        """Welcome a source and receive its messages; returns when its link is fenced."""
        assert hello.worker is not None
        await self._end_former(hello.worker)
        write_guard = WriteGuard(hello.processes, direct_access=self._endpoint.direct_access)
        inbound = self._sessions[hello.worker] = _InboundSession(session, write_guard)
        peer = self._peers.new_peer(hello.worker)
        try:
            admissions = await self._admit(peer.link, hello.layout or card.layout)
            if session.closed_because is None:
                session.send(Welcome(card=card, admissions=admissions))
            cause = await self._peers.answer(peer, session)
            await self._fence(peer, cause, write_guard)
        finally:
            write_guard.close()
            inbound.ended.set()
            del self._sessions[hello.worker]

    async def _end_former(self, ref: WorkerRef) -> None:
        """End a source's earlier session: by opening another, it says that its writes are over."""
        while (former := self._sessions.get(ref)) is not None:
            former.session.close("the same worker has opened another session")
            former.write_guard.set_quiet()
            await former.ended.wait()

    async def _admit(self, link: str, source: KvLayout) -> tuple[bytes, ...]:
        """Open the pool. A source of another model gets nothing; the card tells it why."""
        admissions: asyncio.Future[tuple[bytes, ...]] = self._loop.create_future()

        def tell(contents: tuple[bytes, ...]) -> None:
            self._loop.call_soon_threadsafe(_settle, admissions, contents)

        try:
            self._endpoint.admit(link, source, tell)
        except CannotExchange:
            return ()
        return await admissions

    async def _fence(self, peer: Peer, cause: str, write_guard: WriteGuard) -> None:
        lost = await self._call_and_wait(lambda: self._handoffs.source_lost(peer.link, cause))
        await self._evict(peer.link)
        if lost:
            await write_guard.wait(self._fence_deadline_s)
            self._call(lambda: self._handoffs.source_fenced(lost))

    async def _evict(self, link: str) -> None:
        evicted: asyncio.Future[None] = self._loop.create_future()

        def then() -> None:
            self._loop.call_soon_threadsafe(_settle, evicted, None)

        self._endpoint.evict(link, then)
        await evicted

    async def _call_and_wait(
        self, work: Callable[[], list[DestinationHandoff]]
    ) -> list[DestinationHandoff]:
        """What `work` returns in the step loop's thread."""
        done: asyncio.Future[list[DestinationHandoff]] = self._loop.create_future()

        def run() -> None:
            found = work()
            self._loop.call_soon_threadsafe(_settle, done, found)

        self._call(run)
        return await done


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)
