"""Where one journey hears of its workers. What is not read yet piles up here and is read at once.

That is how a slow reader's tokens are coalesced: they wait in one place, bounded by the length of
the answer, and leave as one message.
"""

from __future__ import annotations

import asyncio

import msgspec

from wire.identity import WorkerRef
from wire.messages import Failed, Handed, Kept, Output, Prefilled, Released


class WorkerLost(msgspec.Struct, frozen=True):
    """The session with this incarnation ended."""

    cause: str


class DeadlinePassed(msgspec.Struct, frozen=True):
    """The request's time is over."""


class RouterStops(msgspec.Struct, frozen=True):
    """The router ends now and takes its requests with it."""


News = (
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


class Mailbox:
    """Written by the sessions' readers, read by one journey."""

    def __init__(self) -> None:
        self._news: list[tuple[WorkerRef | None, News]] = []
        self._reader: asyncio.Future[None] | None = None

    def put(self, sender: WorkerRef | None, news: News) -> None:
        self._news.append((sender, news))
        # A future for its one reader: an asyncio.Event takes three times as long for each token.
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    async def take(self) -> list[tuple[WorkerRef | None, News]]:
        """All news since the last call, in order; waits when there is none."""
        if not self._news:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        news, self._news = self._news, []
        return news
