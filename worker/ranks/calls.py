"""Remote procedure calls from any thread of rank 0 to another rank, and notices back from it."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec

from kv_transfer.endpoints.remote_rank_messages import Handler
from worker.ranks.errors import RankLost, RankRefused
from worker.ranks.message_socket import MessageSocket, SocketClosed

T = TypeVar("T")
OnNotice = Mapping[type[msgspec.Struct], Callable[[int, Any], None]]
"""Rank 0's callbacks `f(rank, message)`, by the class of a notice."""

log = logging.getLogger(__name__)


class CallRequest(msgspec.Struct, frozen=True, array_like=True):
    """A message with the name of its class."""

    number: int
    kind: str
    body: msgspec.Raw


class CallResult(msgspec.Struct, frozen=True, array_like=True, tag=True):
    number: int
    body: msgspec.Raw


class CallFailed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    number: int
    why: str


class Notice(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A message that rank 0 has not asked for."""

    kind: str
    body: msgspec.Raw


_encode = msgspec.msgpack.Encoder().encode
_decode_call = msgspec.msgpack.Decoder(CallRequest).decode
_decode_reply: Callable[[bytes], CallResult | CallFailed | Notice] = msgspec.msgpack.Decoder(
    CallResult | CallFailed | Notice
).decode


class CallClient:
    """Rank 0's end. The thread that runs `receive_all` completes futures and takes notices: their
    callbacks must not block."""

    def __init__(self, rank: int, socket: MessageSocket, on_notice: OnNotice) -> None:
        self._rank = rank
        self._socket = socket
        self._on_notice = on_notice
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[Future[Any], type[Any]]] = {}
        self._lost: RankLost | None = None

    def call(self, message: msgspec.Struct, answer: type[T]) -> Future[T]:
        """The rank's answer. The future fails with RankRefused or RankLost."""
        future: Future[T] = Future()
        with self._lock:
            if self._lost is not None:
                future.set_exception(self._lost)
                return future
            number = next(self._numbers)
            self._waiting[number] = future, answer
        self._send(number, message)
        return future

    def receive_all(self) -> None:
        """Receive until the rank's end is closed."""
        while (frame := self._socket.receive()) is not None:
            self._receive(_decode_reply(frame))

    def lose(self, lost: RankLost) -> None:
        """Fail all calls, present and future: the rank has ended."""
        with self._lock:
            self._lost = lost
            waiting, self._waiting = self._waiting, {}
        for future, _ in waiting.values():
            future.set_exception(lost)

    def _send(self, number: int, message: msgspec.Struct) -> None:
        try:
            self._socket.send(_encode(CallRequest(number, type(message).__name__, _raw(message))))
        except SocketClosed:
            return  # the receiving thread notices, and `lose` fails what waits

    def _receive(self, reply: CallResult | CallFailed | Notice) -> None:
        match reply:
            case Notice():
                (kind,) = [kind for kind in self._on_notice if kind.__name__ == reply.kind]
                self._on_notice[kind](self._rank, msgspec.msgpack.decode(reply.body, type=kind))
            case CallResult():
                future, answer = self._take(reply.number)
                future.set_result(msgspec.msgpack.decode(reply.body, type=answer))
            case CallFailed():
                future, _ = self._take(reply.number)
                future.set_exception(RankRefused(f"rank {self._rank}: {reply.why}"))

    def _take(self, number: int) -> tuple[Future[Any], type[Any]]:
        with self._lock:
            return self._waiting.pop(number)


class CallServer:
    """The other rank's end."""

    def __init__(self, socket: MessageSocket) -> None:
        self._socket = socket
        self._kinds: dict[str, tuple[type[msgspec.Struct], Handler]] = {}
        self._bind_thread: Callable[[], None] | None = None

    def serve(
        self,
        handlers: Mapping[type[msgspec.Struct], Handler],
        bind_thread: Callable[[], None] | None = None,
    ) -> None:
        """Answer these messages from now on; `bind_thread()` comes before the first, in the thread
        that receives."""
        self._bind_thread = bind_thread
        self._kinds = {kind.__name__: (kind, handler) for kind, handler in handlers.items()}

    def receive_all(self) -> None:
        """Receive until rank 0 has ended."""
        while (frame := self._socket.receive()) is not None:
            self._receive(_decode_call(frame))

    def notify(self, message: msgspec.Struct) -> None:
        """Send a notice to rank 0. Thread-safe."""
        self._send(Notice(type(message).__name__, _raw(message)))

    def _receive(self, call: CallRequest) -> None:
        def reply(answer: msgspec.Struct) -> None:
            self._send(CallResult(call.number, _raw(answer)))

        try:
            if call.kind not in self._kinds:
                raise RankRefused(f"{call.kind} is not understood, or not yet")
            kind, handler = self._kinds[call.kind]
            if self._bind_thread is not None:
                bind, self._bind_thread = self._bind_thread, None
                bind()
            handler(msgspec.msgpack.decode(call.body, type=kind), reply)
        except Exception as error:
            log.warning("%s failed", call.kind, exc_info=True)
            self._send(CallFailed(call.number, f"{type(error).__name__}: {error}"))

    def _send(self, reply: CallResult | CallFailed | Notice) -> None:
        try:
            self._socket.send(_encode(reply))
        except SocketClosed:
            return  # rank 0 has ended, and the receiving thread ends this process


def _raw(message: msgspec.Struct) -> msgspec.Raw:
    return msgspec.Raw(_encode(message))
