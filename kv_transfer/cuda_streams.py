"""CUDA's streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kv_transfer.streams import AccessedBlocks, Event


class CudaStream:
    """Implements `kv_transfer.streams.Stream`."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    @staticmethod
    def current(device: torch.device) -> CudaStream:
        """The stream on which this thread launches; one for all threads, unless they change it."""
        return CudaStream(torch.cuda.current_stream(device))

    @staticmethod
    def create(device: torch.device) -> CudaStream:
        """A stream that does not wait for the default one, nor the other way round."""
        return CudaStream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]

    def launch(
        self,
        work: Callable[[], object],
        reads: Sequence[AccessedBlocks] = (),
        writes: Sequence[AccessedBlocks] = (),
    ) -> None:
        with torch.cuda.stream(self._stream):
            work()

    def record_event(self) -> torch.cuda.Event:
        event: torch.cuda.Event = self._stream.record_event()
        return event

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, torch.cuda.Event)
        self._stream.wait_event(event)
