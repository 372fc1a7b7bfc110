"""A stream that runs what it is given at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kv_transfer.streams import AccessedBlocks, Event


class Over:
    """An event that is over."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...


class AtOnce:
    """Implements `kv_transfer.streams.Stream` by the caller's thread."""

    def launch(
        self,
        work: Callable[[], object],
        reads: Sequence[AccessedBlocks] = (),
        writes: Sequence[AccessedBlocks] = (),
    ) -> None:
        work()

    def record_event(self) -> Event:
        return Over()

    def wait_event(self, event: Event) -> None: ...
