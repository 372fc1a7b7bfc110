"""The peers that write into this worker's pool: let in, listened to, and kept out afterwards."""

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
    guard: WriteGuard
    over: asyncio.Event = field(default_factory=asyncio.Event)


class InboundSessions:
    """Lives on the event loop; `call` takes work to the step loop's thread.

    When a source's session ends, whatever the cause, the pool is closed to it at once. Pages that
    it was granted return when nothing of it can land any more: that is, then; but its processes on
    this host with direct access to our memory must also have ended, or it must have called again
    (which it does only when its writes are over), and they are killed if neither happens.
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
        self._visits: dict[WorkerRef, _InboundSession] = {}

    async def serve(self, hello: Hello, session: Session, card: WorkerCard) -> None:
        """Welcome a peer and listen to it; returns when its link is fenced."""
        assert hello.worker is not None
        await self._end_former(hello.worker)
        guard = WriteGuard(hello.processes, direct_access=self._endpoint.direct_access)
        visit = self._visits[hello.worker] = _InboundSession(session, guard)
        peer = self._peers.new_peer(hello.worker)
        try:
            admissions = await self._admit(peer.link, hello.layout or card.layout)
            if session.closed_because is None:
                session.send(Welcome(card=card, admissions=admissions))
            cause = await self._peers.answer(peer, session)
            await self._fence(peer, cause, guard)
        finally:
            guard.close()
            visit.over.set()
            del self._visits[hello.worker]

    async def _end_former(self, ref: WorkerRef) -> None:
        """By calling again, a source says that what it wrote before is over."""
        while (former := self._visits.get(ref)) is not None:
            former.session.close("the same worker has opened another session")
            former.guard.told_quiet()
            await former.over.wait()

    async def _admit(self, link: str, source: KvLayout) -> tuple[bytes, ...]:
        """None to a source of another model, which learns from our card what is wrong."""
        admissions: asyncio.Future[tuple[bytes, ...]] = self._loop.create_future()

        def tell(contents: tuple[bytes, ...]) -> None:
            self._loop.call_soon_threadsafe(_settle, admissions, contents)

        try:
            self._endpoint.admit(link, source, tell)
        except CannotExchange:
            return ()
        return await admissions

    async def _fence(self, peer: Peer, cause: str, guard: WriteGuard) -> None:
        lost = await self._in_steps(lambda: self._handoffs.source_lost(peer.link, cause))
        await self._evict(peer.link)
        if lost:
            await guard.wait(self._fence_deadline_s)
            self._call(lambda: self._handoffs.source_fenced(lost))

    async def _evict(self, link: str) -> None:
        evicted: asyncio.Future[None] = self._loop.create_future()

        def then() -> None:
            self._loop.call_soon_threadsafe(_settle, evicted, None)

        self._endpoint.evict(link, then)
        await evicted

    async def _in_steps(
        self, work: Callable[[], list[DestinationHandoff]]
    ) -> list[DestinationHandoff]:
        done: asyncio.Future[list[DestinationHandoff]] = self._loop.create_future()

        def run() -> None:
            found = work()
            self._loop.call_soon_threadsafe(_settle, done, found)

        self._call(run)
        return await done


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)
