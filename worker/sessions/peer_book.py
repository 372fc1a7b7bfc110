"""Sessions between workers, which carry the handoffs' messages; blocks go over transports."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Protocol, cast

from runtime.session import OpenedSession, Session, SessionClosed, open_session
from runtime.tls import MutualTls
from wire.handoff import Handoff
from wire.identity import WorkerRef
from wire.messages import Destination, Hello
from worker.steps.step_context import Peer

DIAL_TIMEOUT_S = 5.0


class PeerEvents(Protocol):
    """Callbacks for what happens on the sessions between workers."""

    def on_message(self, message: Handoff, peer: Peer) -> None: ...

    def on_connected(self, peer: Peer, opened: OpenedSession) -> None:
        """This worker has opened a session; called before anything is sent over it."""
        ...

    async def on_destination_lost(self, peer: Peer, cause: str) -> None:
        """A session that this worker opened has ended. Returns when no write over its link is
        under way any more."""
        ...

    def on_unreachable(self, peer: Peer, cause: str) -> None:
        """A session could not be opened."""
        ...


class PeerBook:
    """Manages the sessions with other workers: sends messages, opening sessions on demand.

    All messages of an attempt go over the session that its source opened. Opening a session also
    creates the link over which blocks are written; the session is reopened only after that link
    has ended. Lives on the event loop.
    """

    def __init__(self, tls: MutualTls | None = None) -> None:
        self._tls = tls
        self._link_numbers = itertools.count(1)
        self._sessions: dict[str, Session] = {}
        """Sessions by link, opened by either side."""
        self._opened: dict[WorkerRef, Session] = {}
        """Sessions that this worker has opened."""
        self._unsent: dict[WorkerRef, list[Handoff]] = {}
        """Messages to peers whose session is being opened, or is about to end."""
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, hello: Callable[[], Hello], events: PeerEvents) -> None:
        """Called once, before anything is sent; `hello()` opens this worker's sessions."""
        self._hello = hello
        self._events = events

    def new_peer(self, ref: WorkerRef) -> Peer:
        return Peer(ref, f"{ref}/{next(self._link_numbers)}")

    def send(self, peer: Destination, message: Handoff) -> None:
        """Send over the session that this worker has opened to a peer; open it first if need be."""
        session = self._opened.get(peer.ref)
        if session is not None and session.closed_because is None:
            session.send(message)
        elif peer.ref in self._unsent:
            self._unsent[peer.ref].append(message)
        else:
            self._unsent[peer.ref] = [message]
            task = asyncio.create_task(self._serve(peer), name=f"peer {peer.ref}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def send_over(self, link: str, message: Handoff) -> None:
        """Send over a link's session; lost if that has ended."""
        session = self._sessions.get(link)
        if session is not None and session.closed_because is None:
            session.send(message)

    def hang_up(self, link: str, cause: str) -> None:
        session = self._sessions.get(link)
        if session is not None:
            session.close(cause)

    async def answer(self, peer: Peer, session: Session) -> str:
        """Serve a session that a peer has opened, until it ends; returns why it did."""
        self._sessions[peer.link] = session
        return await self._listen(peer, session)

    async def close(self) -> None:
        for session in list(self._sessions.values()):
            session.close("the worker stops")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, peer: Destination) -> None:
        while self._unsent[peer.ref]:
            await self._serve_once(peer)
        del self._unsent[peer.ref]

    async def _serve_once(self, destination: Destination) -> None:
        ref = destination.ref
        peer = self.new_peer(ref)
        try:
            opened = await self._open(destination)
        except SessionClosed as error:
            self._unsent[ref].clear()
            self._events.on_unreachable(peer, str(error))
            return
        session = opened.session
        self._opened[ref] = self._sessions[peer.link] = session
        self._events.on_connected(peer, opened)
        for message in self._take_unsent(ref):
            self.send_over(peer.link, message)
        cause = await self._listen(peer, session)
        del self._opened[ref]
        await self._events.on_destination_lost(peer, cause)

    async def _open(self, destination: Destination) -> OpenedSession:
        opened = await open_session(
            destination.address, self._hello(), timeout_s=DIAL_TIMEOUT_S, tls=self._tls
        )
        if opened.card.ref != destination.ref:
            opened.session.close("not the worker that was wanted")
            raise SessionClosed(f"{opened.card.ref} answers in place of {destination.ref}")
        return opened

    def _take_unsent(self, ref: WorkerRef) -> list[Handoff]:
        unsent, self._unsent[ref] = self._unsent[ref], []
        return unsent

    async def _listen(self, peer: Peer, session: Session) -> str:
        async for message in session.messages():
            self._events.on_message(cast(Handoff, message), peer)
        del self._sessions[peer.link]
        return session.closed_because or "ended"
