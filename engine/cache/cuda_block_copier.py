"""Copies whole blocks between a GPU's cache and pinned host memory, on a stream of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from engine.cache.block_copier import Copied, Copy, runs
from engine.device.pinned_memory import PinnedMemory


class CudaCopier:
    """See engine.cache.block_copier.BlockCopier. Both memories are uint8 [blocks * block_bytes].

    Everything is launched from the engine's thread; the GPU's copy engines do the rest.
    """

    def __init__(
        self,
        cache: Tensor,
        num_host_blocks: int,
        block_bytes: int,
        pin: Callable[[int], PinnedMemory] = PinnedMemory,
    ) -> None:
        """Raises OSError and RuntimeError where `pin` cannot give so much memory."""
        with torch.cuda.device(cache.device):
            self._pinned = pin(num_host_blocks * block_bytes)
        num_whole = len(cache) // block_bytes * block_bytes
        self._cache = cache[:num_whole].view(-1, block_bytes)
        self._host = self._pinned.tensor.view(-1, block_bytes)
        self._device = cache.device
        self._stream = torch.cuda.Stream(cache.device)  # type: ignore[no-untyped-call]
        self._under_way: deque[tuple[int, torch.cuda.Event, torch.cuda.Event]] = deque()

    def start(self, copy: Copy) -> None:
        """Behind what the steps' stream has been given so far."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        began, ended = _event(), _event()
        began.record(self._stream)
        with torch.cuda.stream(self._stream):
            for block, host_block, count in runs(copy.blocks, copy.host_blocks):
                cache = self._cache[block : block + count]
                host = self._host[host_block : host_block + count]
                if copy.up:
                    cache.copy_(host, non_blocking=True)
                else:
                    host.copy_(cache, non_blocking=True)
        ended.record(self._stream)
        self._under_way.append((copy.number, began, ended))

    def take_copied(self) -> Seq[Copied]:
        copied = []
        while self._under_way and self._under_way[0][2].query():  # type: ignore[no-untyped-call]
            number, began, ended = self._under_way.popleft()
            copied.append(Copied(number, began.elapsed_time(ended) / 1e3))
        return copied

    def close(self) -> None:
        self._stream.synchronize()
        self._pinned.close()


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
