"""Where one journey hears of its workers. What is not read yet piles up here and is read at once.

That is how a slow reader's tokens are coalesced: they wait in one place, bounded by the length of
the answer, and leave as one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

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
        # A future for its one reader: an asyncio.Event takes three times as long for each token.
        self._reader: asyncio.Future[None] | None = None
        self.direct: Callable[[WorkerRef | None, News], bool] | None = None
        """Asked first while the reader waits and nothing else is new: True when it took the news.
        The reader raises what this raises."""

    def put(self, sender: WorkerRef | None, news: News) -> None:
        reader = self._reader
        if reader is None or reader.done():
            self._news.append((sender, news))
            return
        try:
            if self.direct is not None and self.direct(sender, news):
                return
        except Exception as error:  # noqa: BLE001  # of the reader's request, not of the sender
            reader.set_exception(error)
            return
        self._news.append((sender, news))
        reader.set_result(None)

    async def take(self) -> list[tuple[WorkerRef | None, News]]:
        """All news since the last call, in order; waits when there is none."""
        if not self._news:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        news, self._news = self._news, []
        return news
