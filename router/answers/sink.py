"""Sinks for answers: a delta is sent in the call that reads its tokens from a worker.

Deltas are joined while the client does not read, or until `interval` tokens have come; the writer's
callback, or the token that completes the interval, then sends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from router.answers.joining import HeldDeltas
from router.answers.unread import Reader
from router.requests.request import Delta


class AnswerSink(Protocol):
    """Takes all answers to one request; a delta's index tells which answer it continues."""

    def send(self, delta: Delta) -> None:
        """Take an answer's next delta, without waiting. Raises the error that ended the
        connection."""

    async def drain(self) -> None:
        """Wait until everything was sent to the client. Raises the error that ended the
        connection."""


class CollectingSink:
    """Implements AnswerSink for responses that are not streamed."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []

    def send(self, delta: Delta) -> None:
        self.deltas.append(delta)

    async def drain(self) -> None:
        """Return at once: nothing is sent."""


class DeltaWriter(Protocol):
    """A connection of an API server to one client."""

    def ready(self) -> bool:
        """Whether the next delta would be sent at once: the client is connected, and reads."""

    def call_when_ready(self, callback: Callable[[], None], /) -> None:
        """Call `callback` once, when the writer is ready again or has failed; it replaces an
        earlier callback."""

    def write(self, delta: Delta) -> None:
        """Send a delta. The writer must be ready."""

    @property
    def writing(self) -> bool:
        """Whether a delta is not completely sent yet."""

    def check(self) -> None:
        """Raises the error of an earlier write."""


class StreamSink:
    """Implements AnswerSink for streams.

    While the writer is ready, no delta is held longer than its interval. `client` counts the memory
    that is held because the writer is not ready.
    """

    def __init__(self, writer: DeltaWriter, client: Reader, interval: int = 1) -> None:
        """The first delta of each answer is sent at once, then one for every `interval` tokens."""
        self._writer = writer
        self._client = client
        self._least_tokens = interval if interval > 1 else 0
        self._held: dict[int, HeldDeltas] = {}
        self._held_bytes = 0
        self._written_bytes = 0
        """Memory of joined deltas that are not completely sent yet."""
        self._reported_bytes = 0
        self._failure: Exception | None = None
        self._drained: asyncio.Future[None] | None = None
        self._is_ready = writer.ready
        self._write_now = writer.write

    def send(self, delta: Delta) -> None:
        if not self._least_tokens and not self._held and self._is_ready():
            self._write_now(delta)
            return
        self._check()
        held = self._held.get(delta.index)
        if held is None:
            held = self._held[delta.index] = HeldDeltas()
        self._held_bytes -= held.num_bytes
        held.add(delta)
        self._held_bytes += held.num_bytes
        if self._is_due(held) and self._is_ready():
            self._write(delta.index)
        self._report()

    async def drain(self) -> None:
        self._least_tokens = 0
        self._flush()
        while self._held or self._writer.writing:
            self._check()
            self._writer.call_when_ready(self._resume)
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
        self._check()

    def _resume(self) -> None:
        """The writer's callback: an error here fails the request, not the caller."""
        try:
            self._flush()
        except Exception as error:  # noqa: BLE001  # raised where the request's task waits
            self._failure = error
            self._is_ready = _never
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _flush(self) -> None:
        for index in [it for it, held in self._held.items() if self._is_due(held)]:
            if not self._is_ready():
                break
            self._write(index)
        self._report()

    def _is_due(self, held: HeldDeltas) -> bool:
        return held.begins_or_ends or held.num_tokens >= self._least_tokens

    def _write(self, index: int) -> None:
        held = self._held.pop(index)
        self._held_bytes -= held.num_bytes
        self._write_now(held.whole())
        self._written_bytes = held.num_bytes

    def _report(self) -> None:
        """Report the held memory to `client`, except for deltas that only wait for their
        interval."""
        if not self._writer.writing:
            self._written_bytes = 0
        num_bytes = 0
        if not self._is_ready():
            num_bytes = self._held_bytes + self._written_bytes
            self._writer.call_when_ready(self._resume)
        if num_bytes != self._reported_bytes:
            self._client.add(num_bytes - self._reported_bytes)
            self._reported_bytes = num_bytes

    def _check(self) -> None:
        """Raises the error of an earlier write."""
        if self._failure is not None:
            raise self._failure
        self._writer.check()


def _never() -> bool:
    return False
