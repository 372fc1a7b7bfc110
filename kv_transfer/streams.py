"""Streams of a device, and events on them: all order that there is between kernels and a process.

A device runs what it was told long after the call returns. What must wait for it, waits for an
event. The handoff's code uses these interfaces alone, so that tests can put a model of a device in
their place which knows what may run before what (tests/order).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AccessedBlocks:
    """Memory that a launch reads or writes: `num_bytes` at address + number * stride, for each
    number."""

    address: int
    stride: int
    num_bytes: int
    numbers: Sequence[int]


class Event(Protocol):
    """A point of a stream."""

    def query(self) -> bool:
        """Whether everything that was launched before it has ended. Does not wait."""
        ...

    def synchronize(self) -> None:
        """Wait until then; nothing that was launched later, or on other streams, is waited for."""
        ...


class Stream(Protocol):
    """Kernels and copies that run one after the other, beside those of other streams."""

    def launch(
        self,
        work: Callable[[], object],
        reads: Sequence[AccessedBlocks] = (),
        writes: Sequence[AccessedBlocks] = (),
    ) -> None:
        """Call `work`, whose kernels and copies are launched on this stream.

        `reads` and `writes` say which blocks of a KV cache they touch. A device does not ask.
        """
        ...

    def record_event(self) -> Event: ...

    def wait_event(self, event: Event) -> None:
        """What is launched from now on runs after the event."""
        ...
