"""Ranks of one worker in this process; messages between them are encoded as between processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

import msgspec

from kv_transfer.endpoints.all_ranks import AllRanksEndpoint
from kv_transfer.endpoints.endpoint import Endpoint
from kv_transfer.endpoints.rank import RankEndpoint
from kv_transfer.endpoints.remote_rank import RemoteRank
from kv_transfer.endpoints.remote_rank_messages import RankPairFailed
from kv_transfer.endpoints.remote_rank_server import RankService

T = TypeVar("T", bound=msgspec.Struct)


class HandEndpoint(RankEndpoint):
    """A rank's endpoint whose transfer thread is not started: the test drives its turns."""

    def start(
        self, on_link_failed: Callable[[str, str], None], on_crash: Callable[[Exception], None]
    ) -> None:
        self.prepare(on_link_failed, on_crash)


class AtOnceExecutor(Executor):
    """Runs what is submitted in the caller's thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class InProcessCalls:
    """Implements `kv_transfer.endpoints.remote_rank_messages.Calls`; a dead rank never answers."""

    def __init__(self, endpoint: RankEndpoint) -> None:
        self.rank = RemoteRank(self)
        self.service = RankService(endpoint, self._notify, _raise, AtOnceExecutor())
        self.lost: Exception | None = None

    def call(self, message: msgspec.Struct, answer_type: type[T]) -> Future[T]:
        answer: Future[T] = Future()
        if self.lost is not None:
            answer.set_exception(self.lost)
            return answer

        def reply(content: msgspec.Struct) -> None:
            answer.set_result(through_the_wire(content, answer_type))

        kind = type(message)
        self.service.handlers[kind](through_the_wire(message, kind), reply)
        return answer

    def _notify(self, message: msgspec.Struct) -> None:
        self.rank.on_notice(through_the_wire(message, RankPairFailed))


def through_the_wire(message: msgspec.Struct, kind: type[T]) -> T:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=kind)


def joined(ranks: Sequence[RankEndpoint]) -> Endpoint:
    """All ranks of a worker as one; a single one is its own."""
    if len(ranks) == 1:
        return ranks[0]
    return AllRanksEndpoint(ranks[0], [InProcessCalls(rank).rank for rank in ranks[1:]])


def _raise(error: Exception) -> None:
    raise error
