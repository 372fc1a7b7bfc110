"""What any thread of rank 0 asks of another rank, beside the steps, and what that says unasked."""

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
from worker.ranks.line import Line, LineClosed

T = TypeVar("T")
Notices = Mapping[type[msgspec.Struct], Callable[[int, Any], None]]
"""What rank 0 does with a message that a rank says unasked, called with the rank."""

log = logging.getLogger(__name__)


class Call(msgspec.Struct, frozen=True, array_like=True):
    """A message by its class's name; `number` is None where no answer is wanted."""

    number: int | None
    kind: str
    body: msgspec.Raw


class Answered(msgspec.Struct, frozen=True, array_like=True, tag=True):
    number: int
    body: msgspec.Raw


class CallFailed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    number: int
    why: str


class Notice(msgspec.Struct, frozen=True, array_like=True, tag=True):
    kind: str
    body: msgspec.Raw


_encode = msgspec.msgpack.Encoder().encode
_decode_call = msgspec.msgpack.Decoder(Call).decode
_decode_said: Callable[[bytes], Answered | CallFailed | Notice] = msgspec.msgpack.Decoder(
    Answered | CallFailed | Notice
).decode


class RankCaller:
    """Rank 0's end. Futures are settled, and notices are heard, in the thread that runs `listen`:
    what they call must not block."""

    def __init__(self, rank: int, line: Line, notices: Notices) -> None:
        self._rank = rank
        self._line = line
        self._notices = notices
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[Future[Any], type[Any]]] = {}
        self._lost: RankLost | None = None

    def call(self, message: msgspec.Struct, answer: type[T]) -> Future[T]:
        """The answer, in time; RankRefused if the rank could not; RankLost if it is gone."""
        future: Future[T] = Future()
        with self._lock:
            if self._lost is not None:
                future.set_exception(self._lost)
                return future
            number = next(self._numbers)
            self._waiting[number] = future, answer
        self._send(number, message)
        return future

    def tell(self, message: msgspec.Struct) -> None:
        """Without an answer; lost if the rank is gone."""
        self._send(None, message)

    def listen(self) -> None:
        """Returns when the rank's end is closed."""
        while (frame := self._line.receive()) is not None:
            self._hear(_decode_said(frame))

    def lose(self, lost: RankLost) -> None:
        """Nobody answers any more."""
        with self._lock:
            self._lost = lost
            waiting, self._waiting = self._waiting, {}
        for future, _ in waiting.values():
            future.set_exception(lost)

    def _send(self, number: int | None, message: msgspec.Struct) -> None:
        try:
            self._line.send(_encode(Call(number, type(message).__name__, _raw(message))))
        except LineClosed:
            return  # whoever listens hears of it, and settles what waits

    def _hear(self, said: Answered | CallFailed | Notice) -> None:
        match said:
            case Notice():
                (kind,) = [kind for kind in self._notices if kind.__name__ == said.kind]
                self._notices[kind](self._rank, msgspec.msgpack.decode(said.body, type=kind))
            case Answered():
                future, answer = self._take(said.number)
                future.set_result(msgspec.msgpack.decode(said.body, type=answer))
            case CallFailed():
                future, _ = self._take(said.number)
                future.set_exception(RankRefused(f"rank {self._rank}: {said.why}"))

    def _take(self, number: int) -> tuple[Future[Any], type[Any]]:
        with self._lock:
            return self._waiting.pop(number)


class Callee:
    """The called rank's end."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._kinds: dict[str, tuple[type[msgspec.Struct], Handler]] = {}

    def serve(self, handlers: Mapping[type[msgspec.Struct], Handler]) -> None:
        """From now on these messages are understood."""
        self._kinds = {kind.__name__: (kind, handler) for kind, handler in handlers.items()}

    def listen(self) -> None:
        """Returns when rank 0 is gone. Raises what a handler raises of which nobody else hears."""
        while (frame := self._line.receive()) is not None:
            self._hear(_decode_call(frame))

    def notify(self, message: msgspec.Struct) -> None:
        """Tell rank 0, unasked; from any thread."""
        self._send(Notice(type(message).__name__, _raw(message)))

    def _hear(self, call: Call) -> None:
        def reply(answer: msgspec.Struct) -> None:
            if call.number is not None:
                self._send(Answered(call.number, _raw(answer)))

        try:
            if call.kind not in self._kinds:
                raise RankRefused(f"{call.kind} is not understood, or not yet")
            kind, handler = self._kinds[call.kind]
            handler(msgspec.msgpack.decode(call.body, type=kind), reply)
        except Exception as error:
            if call.number is None:
                raise
            log.warning("%s failed", call.kind, exc_info=True)
            self._send(CallFailed(call.number, f"{type(error).__name__}: {error}"))

    def _send(self, said: Answered | CallFailed | Notice) -> None:
        try:
            self._line.send(_encode(said))
        except LineClosed:
            return  # rank 0 is gone, and whoever listens ends this process


def _raw(message: msgspec.Struct) -> msgspec.Raw:
    return msgspec.Raw(_encode(message))
