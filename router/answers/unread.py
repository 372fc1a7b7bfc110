"""Memory of answers that clients do not read: limited per request and in total.

Tokens that a client does not read are joined in its request's sink. A slow reader gets them as one
message later; a client that never reads loses its request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from router.errors import NotRead


class Reader:
    """The unread memory of one request's client, summed over its answers."""

    def __init__(self, unread: Unread, timer: asyncio.Timeout) -> None:
        self._unread = unread
        self._timer = timer
        self.num_bytes = 0
        self.open = True
        """Whether it still counts."""
        self.cause: str | None = None
        """The reason for ending its request, once it is set."""

    def add(self, num_bytes: int) -> None:
        """Add to the unread memory; negative for what was read."""
        if self.open:
            self.num_bytes += num_bytes
            self._unread.changed(self, num_bytes)

    def end(self, cause: str) -> None:
        """End the request: NotRead is raised where its task waits."""
        self.cause = cause
        self._timer.reschedule(asyncio.get_running_loop().time())


class Unread:
    """The unread memory of all clients of a router."""

    def __init__(self, most_bytes: int, most_total_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._most_total_bytes = most_total_bytes
        self._readers: set[Reader] = set()
        self.num_bytes = 0
        """Sum over all readers."""

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Reader]:
        """Context for a request's writes to its client. Raises NotRead if the client reads too
        little."""
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
        """Count a reader's change; end its request, or that of the largest reader, beyond a
        limit."""
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
