"""What waits in the router because clients do not read: bounded for each, and for all.

Tokens that a client does not take are joined in its request's sink. A slow reader is no fault: they
leave as one message when it reads on. One that never reads is, and its request ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from router.errors import NotRead


class Reader:
    """The client of one request, as far as it has not read. All its answers count together."""

    def __init__(self, unread: Unread, timer: asyncio.Timeout) -> None:
        self._unread = unread
        self._timer = timer
        self.num_bytes = 0
        self.open = True
        """Whether it is still counted."""
        self.cause: str | None = None
        """Why its request ends, once it does."""

    def add(self, num_bytes: int) -> None:
        """More waits; or less, when that is negative."""
        if self.open:
            self.num_bytes += num_bytes
            self._unread.changed(self, num_bytes)

    def end(self, cause: str) -> None:
        """Ends the request: where its task waits for the client now, NotRead is raised."""
        self.cause = cause
        self._timer.reschedule(asyncio.get_running_loop().time())


class Unread:
    """Of one router."""

    def __init__(self, most_bytes: int, most_total_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._most_total_bytes = most_total_bytes
        self._readers: set[Reader] = set()
        self.num_bytes = 0
        """All readers' together."""

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Reader]:
        """Around everything that waits for one client. Raises NotRead when it reads too little."""
        timer = asyncio.timeout(None)
        reader = Reader(self, timer)
        self._readers.add(reader)
        try:
            async with timer:
                yield reader
        except TimeoutError:
            if reader.cause is None or not timer.expired():
                raise
            raise NotRead(reader.cause) from None
        finally:
            self._forget(reader)

    def changed(self, reader: Reader, num_bytes: int) -> None:
        """A reader has so many bytes more. It, or the one with the most, may have to end."""
        self.num_bytes += num_bytes
        if num_bytes <= 0:
            return
        if reader.num_bytes > self._most_bytes:
            self._end(reader, f"{reader.num_bytes} bytes of the answer were not read")
        elif self.num_bytes > self._most_total_bytes:
            worst = max(self._readers, key=lambda each: each.num_bytes)
            text = f"{self.num_bytes} bytes of all answers, most of them of this one, were not read"
            self._end(worst, text)

    def _end(self, reader: Reader, cause: str) -> None:
        reader.end(f"{cause}: the request is ended")
        self._forget(reader)

    def _forget(self, reader: Reader) -> None:
        self._readers.discard(reader)
        reader.open = False
        self.num_bytes -= reader.num_bytes
        reader.num_bytes = 0
