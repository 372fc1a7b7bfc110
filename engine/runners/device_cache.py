"""One rank's paged KV cache in device memory: as blocks of bytes, and as tensors."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from engine.device.memory import allocate_zeros, free_bytes
from engine.errors import ConfigError
from engine.runners.cache_shape import shaped
from kv_transfer.layout.checksum import Checksum, checksum_host_blocks
from kv_transfer.layout.checksum_stream import ChecksumStream
from kv_transfer.layout.region import CacheRegion
from wire.layout import KvLayout


class DeviceCache:
    """Allocated once. Its block operations are described at engine.runner.Runner."""

    def __init__(self, layout: KvLayout, device: torch.device) -> None:
        self._layout = layout
        self._device = device

    def fit_num_blocks(
        self, cache_bytes: int | None, cache_fraction: float, reserved_bytes: int = 0
    ) -> int:
        """Blocks that fit into `cache_bytes`, or into that fraction of the device's free memory
        without `reserved_bytes`.

        ConfigError when not one fits.
        """
        free, layout = max(0, free_bytes(self._device) - reserved_bytes), self._layout
        budget = int(free * cache_fraction) if cache_bytes is None else cache_bytes
        num_blocks = budget // layout.block_bytes
        if num_blocks < 1:
            raise ConfigError(
                f"not one KV cache block fits: a block of {layout.block_size} tokens takes "
                f"{layout.block_bytes} bytes, the cache may take {budget}, and {free} are "
                f"free on {self._device}"
            )
        return num_blocks

    def allocate(self, num_blocks: int, num_spare: int) -> CacheRegion:
        """Zeroed, and followed by spare blocks that are no part of the region.

        ConfigError when the device has no memory for it.
        """
        block_bytes = self._layout.block_bytes
        num_bytes = num_blocks * block_bytes
        try:
            self.memory = allocate_zeros(num_bytes + num_spare * block_bytes, self._device)
        except (OSError, torch.OutOfMemoryError) as error:
            raise ConfigError(
                f"{num_blocks} KV cache blocks, {num_bytes} bytes, cannot be allocated on "
                f"{self._device}: {error}"
            ) from error
        on_cpu = self._device.type == "cpu"
        self._sums = None if on_cpu else ChecksumStream(self._device)
        return CacheRegion(self.memory.data_ptr(), num_bytes, str(self._device), self.memory)

    def shaped(self) -> tuple[Tensor, Tensor | None]:
        """See engine.runners.cache_shape.shaped; the spare blocks are the last."""
        return shaped(self.memory, self._layout)

    def copy_block(self, source: int, target: int) -> None:
        """Waits for the device: transports read its memory outside of torch's stream."""
        size = self._layout.block_bytes
        copied = self.memory[source * size : (source + 1) * size]
        self.memory[target * size : (target + 1) * size].copy_(copied)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def checksum(self, blocks: Seq[int], first: int) -> Checksum:
        memory, size = self.memory, self._layout.block_bytes
        if self._sums is None:
            return checksum_host_blocks(memory.numpy().data, size, blocks, first)
        return self._sums.of_blocks(memory, size, blocks, first)
