"""Where answers go: deltas are sent in the call that brings their tokens from a worker.

While the client does not read, and until an interval is full, deltas are joined; the writer's
callback, or the token that fills the interval, sends what was joined.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from router.answers.joining import HeldDeltas
from router.answers.unread import Reader
from router.requests.request import Delta


class AnswerSink(Protocol):
    """Takes all answers to one request; each delta tells by its index which one it continues."""

    def send(self, delta: Delta) -> None:
        """Takes the next delta of an answer, and never waits. Raises what ended the connection."""

    async def drain(self) -> None:
        """Waits until the client has been sent everything. Raises what ended the connection."""


class CollectingSink:
    """Implements AnswerSink for answers that are told whole."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []

    def send(self, delta: Delta) -> None:
        self.deltas.append(delta)

    async def drain(self) -> None:
        """There is nobody to wait for."""


class DeltaWriter(Protocol):
    """A door's connection to one client."""

    def ready(self) -> bool:
        """The next delta would leave at once: the client has read enough, and is there."""

    def call_when_ready(self, callback: Callable[[], None], /) -> None:
        """Once, when it is ready again or has failed. A later callback takes the place of this."""

    def write(self, delta: Delta) -> None:
        """Sends a delta, for which it must be ready."""

    @property
    def writing(self) -> bool:
        """Whether a delta that it has taken has not left yet."""

    def check(self) -> None:
        """Raises what ended an earlier write."""


class StreamSink:
    """Implements AnswerSink for streams.

    Whenever the writer is ready, nothing is held that should have left. `client` is told how much
    memory is held because the writer is not.
    """

    def __init__(self, writer: DeltaWriter, client: Reader, interval: int = 1) -> None:
        """Of each answer the first delta leaves at once, then one for every `interval` tokens."""
        self._writer = writer
        self._client = client
        self._least_tokens = interval if interval > 1 else 0
        self._held: dict[int, HeldDeltas] = {}
        self._held_bytes = 0
        self._written_bytes = 0
        """What was joined and is being written: it needs its memory until it has left."""
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
        """The writer's callback: what fails here fails the request, not whoever calls."""
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
        """Deltas that wait for their interval alone are no fault of the client."""
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
        """Raises what ended an earlier write."""
        if self._failure is not None:
            raise self._failure
        self._writer.check()


def _never() -> bool:
    return False
