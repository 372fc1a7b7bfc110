"""Where one journey hears of its workers. What is not read yet piles up here and is read at once.

That is how a slow reader's tokens are coalesced: they wait in one place, joined so that they need
little memory, bounded by router.fleet.unread, and leave as one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from router.fleet.unread import Reader, size_of
from wire.identity import WorkerRef
from wire.messages import Failed, Handed, Kept, Output, Prefilled, Released


class WorkerLost(msgspec.Struct, frozen=True):
    """The session with this incarnation ended."""

    cause: str


class DeadlinePassed(msgspec.Struct, frozen=True):
    """The request's time is over."""


class RouterStops(msgspec.Struct, frozen=True):
    """The router ends now and takes its requests with it."""


WorkerEvent = (
    Output
    | Prefilled
    | Handed
    | Released
    | Kept
    | Failed
    | WorkerLost
    | DeadlinePassed
    | RouterStops
)


JOIN_EVERY = 64
"""So many items are joined at a time: a token in a message of its own needs ten times as much."""
Item = tuple[WorkerRef | None, WorkerEvent]


class Mailbox:
    """Written by the sessions' readers, read by one journey. `client` is told how much waits."""

    def __init__(self, client: Reader | None = None) -> None:
        self._news: list[Item] = []
        # A future for its one reader: an asyncio.Event takes three times as long for each token.
        self._reader: asyncio.Future[None] | None = None
        self._client = client
        self._piled_bytes = 0
        self._taken_bytes = 0
        """Of the news, and of what was taken last: nobody comes for more before that has left."""
        self._join_at = JOIN_EVERY
        self.direct: Callable[[WorkerRef | None, WorkerEvent], bool] | None = None
        """Asked first while the reader waits and nothing else is new: True when it took the news.
        The reader raises what this raises."""

    def put(self, sender: WorkerRef | None, news: WorkerEvent) -> None:
        reader = self._reader
        if reader is None or reader.done():
            self._pile(sender, news)
            return
        try:
            if self.direct is not None and self.direct(sender, news):
                return
        except Exception as error:  # noqa: BLE001  # of the reader's request, not of the sender
            reader.set_exception(error)
            return
        self._news.append((sender, news))
        reader.set_result(None)

    async def take(self) -> list[Item]:
        """All news since the last call, in order; waits when there is none."""
        if self._taken_bytes:
            self._count(-self._taken_bytes)
        if not self._news:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        news, self._news = self._news, []
        self._taken_bytes, self._piled_bytes, self._join_at = self._piled_bytes, 0, JOIN_EVERY
        return news

    def close(self) -> None:
        """Nobody reads any more."""
        self._count(-self._taken_bytes - self._piled_bytes)
        self._news = []
        self._taken_bytes = self._piled_bytes = 0

    def _pile(self, sender: WorkerRef | None, news: WorkerEvent) -> None:
        self._news.append((sender, news))
        more = _size(news)
        if len(self._news) >= self._join_at:
            self._news = joined(self._news)
            self._join_at = len(self._news) + JOIN_EVERY
            more = sum(_size(item) for _, item in self._news) - self._piled_bytes
        self._piled_bytes += more
        self._count(more)

    def _count(self, num_bytes: int) -> None:
        if num_bytes and self._client is not None:
            self._client.add(num_bytes)


def joined(news: Sequence[Item]) -> list[Item]:
    """The same news, in which neighbouring outputs of one attempt are one."""
    result: list[Item] = []
    run: list[Output] = []
    for sender, item in news:
        if run and not (sender == result[-1][0] and _follows(item, run[-1])):
            _close_run(result, run)
        if isinstance(item, Output):
            run.append(item)
            if len(run) > 1:
                continue
        result.append((sender, item))
    _close_run(result, run)
    return result


def _follows(item: WorkerEvent, before: Output) -> bool:
    return (
        isinstance(item, Output)
        and before.finish is None
        and item.attempt_id == before.attempt_id
        and item.position == before.position + len(before.tokens)
    )


def _close_run(result: list[Item], run: list[Output]) -> None:
    """The last of `result` stands for the whole run."""
    if len(run) > 1:
        whole = Output(
            attempt_id=run[0].attempt_id,
            position=run[0].position,
            tokens=tuple(token for each in run for token in each.tokens),
            logprobs=tuple(logprob for each in run for logprob in each.logprobs),
            finish=run[-1].finish,
            stop_token=run[-1].stop_token,
        )
        result[-1] = (result[-1][0], whole)
    run.clear()


def _size(news: WorkerEvent) -> int:
    return size_of(news) if isinstance(news, Output) else 0
