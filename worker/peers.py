"""The sessions between workers over which handoffs are arranged; blocks travel elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from runtime.session import Session, SessionClosed, open_session
from wire.handoff import Commit, Handoff, Offer
from wire.identity import WorkerRef
from wire.messages import Destination, Hello, Message, WorkerCard

DIAL_TIMEOUT_S = 5.0


class PeerEvents(Protocol):
    """Who hears of what happens between workers."""

    def on_message(self, message: Handoff, peer: Destination) -> None: ...

    def on_connected(self, card: WorkerCard) -> None:
        """A session that this worker opened; called before anything is sent over it."""
        ...

    def on_destination_lost(self, peer: WorkerRef, cause: str) -> None: ...

    def on_source_lost(self, peer: WorkerRef, cause: str) -> None: ...

    def on_unreachable(self, peer: WorkerRef, cause: str) -> None: ...

    def on_gone(self, peer: WorkerRef) -> None:
        """Another process answers at the peer's address: the peer itself has ended."""
        ...


class PeerBook:
    """Sends to peers, and opens sessions with them where there are none.

    What a source says goes over a session that it opened itself, because opening it is what
    connects the link that its blocks take. Answers go over whatever session there is.
    """

    def __init__(self, hello: Callable[[], Hello], events: PeerEvents) -> None:
        self._hello = hello
        self._events = events
        self._called: dict[WorkerRef, Session] = {}
        self._callers: dict[WorkerRef, Session] = {}
        self._unsent: dict[WorkerRef, list[Message]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, peer: Destination, message: Message) -> None:
        session = self._called.get(peer.ref)
        if session is None and not isinstance(message, Offer | Commit):
            session = self._callers.get(peer.ref)
        if session is not None and session.closed_because is None:
            session.send(message)
        elif peer.ref in self._unsent:
            self._unsent[peer.ref].append(message)
        else:
            self._unsent[peer.ref] = [message]
            task = asyncio.create_task(self._call(peer), name=f"peer {peer.ref}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def hang_up(self, peer: WorkerRef, cause: str) -> None:
        """End the session that was opened to a peer; the next message opens another."""
        session = self._called.get(peer)
        if session is not None:
            session.close(cause)

    async def answer(self, hello: Hello, session: Session) -> None:
        """Serve a session that a peer opened, until it ends."""
        assert hello.worker is not None
        peer = Destination(hello.worker, hello.address)
        self._callers[peer.ref] = session
        async for message in session.messages():
            self._events.on_message(cast(Handoff, message), peer)
        if self._callers.get(peer.ref) is session:
            del self._callers[peer.ref]
        self._events.on_source_lost(peer.ref, session.closed_because or "ended")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for session in [*self._called.values(), *self._callers.values()]:
            session.close()

    async def _call(self, peer: Destination) -> None:
        try:
            opened = await open_session(peer.address, self._hello(), timeout_s=DIAL_TIMEOUT_S)
        except SessionClosed as error:
            del self._unsent[peer.ref]
            self._events.on_unreachable(peer.ref, str(error))
            return
        session = opened.session
        if opened.card.ref != peer.ref:
            del self._unsent[peer.ref]
            session.close("not the worker that was wanted")
            self._events.on_gone(peer.ref)
            return
        self._events.on_connected(opened.card)
        self._called[peer.ref] = session
        for message in self._unsent.pop(peer.ref):
            session.send(message)
        async for message in session.messages():
            self._events.on_message(cast(Handoff, message), peer)
        del self._called[peer.ref]
        self._events.on_destination_lost(peer.ref, session.closed_because or "ended")
