"""A model whose cache is spread over several ranks' pools, while one process computes it all."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import msgspec
import torch

from engine.runner import CacheRegion, OnLayer, Outcome, Slice
from engine.runners.torch_runner import TorchRunner
from kv_transfer.layout.checksum import ComputeChecksum
from tests.kv_transfer.pools import Pool


class SpreadRunner:
    """Implements `engine.runner.Runner`: before each step what the ranks hold is brought together,
    and afterwards each has its heads again."""

    runs_ahead = False

    def __init__(self, runner: TorchRunner, num_ranks: int) -> None:
        self._runner = runner
        self._num_ranks = num_ranks
        self.layout = runner.layout
        self.vocab_size = runner.vocab_size
        self.max_model_len = runner.max_model_len
        self.eos_token_ids = runner.eos_token_ids
        self.model_hash = runner.model_hash
        self.checksum_kind = runner.checksum_kind

    @property
    def regions(self) -> list[CacheRegion]:
        return [pool.region for pool in self._pools]

    @property
    def checksums(self) -> list[ComputeChecksum]:
        return [pool.checksum for pool in self._pools]

    def allocate(self, num_blocks: int) -> CacheRegion:
        region = self._runner.allocate(num_blocks)
        assert isinstance(region.keepalive, torch.Tensor)
        self._whole = Pool(self.layout, num_blocks, region.keepalive)
        spread = msgspec.structs.replace(self.layout, num_ranks=self._num_ranks)
        self._pools = [Pool(spread.of_rank(rank), num_blocks) for rank in range(self._num_ranks)]
        return self.regions[0]

    def fit_num_blocks(self, cache_bytes: int | None, cache_fraction: float) -> int:
        return self._runner.fit_num_blocks(cache_bytes, cache_fraction)

    def copy_block(self, source: int, target: int) -> None:
        for pool in self._pools:
            pool.put([target], pool.get([source], self.layout.block_size))

    def checksum(self, blocks: Seq[int], first: int) -> int:
        return self._pools[0].checksum(blocks, first)

    def mark(self) -> None: ...

    def run(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> list[Outcome]:
        for slice in slices:
            self._gather(slice)
        sampled = self._runner.run(slices)
        for slice in slices:
            self._scatter(slice)
        for num_layers in range(1, self.layout.num_layers + 1 if on_layer else 1):
            assert on_layer is not None
            on_layer(num_layers)
        return sampled

    def launch(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> object:
        sampled = self.run(slices, on_layer)
        return lambda: sampled

    def _gather(self, slice: Slice) -> None:
        blocks = slice.sequence.blocks
        tokens = self._whole.get(blocks, slice.start)
        for pool in self._pools:
            heads = pool.layout.heads
            tokens[:, :, :, heads.start : heads.stop] = pool.get(blocks, slice.start)
        self._whole.put(blocks, tokens)

    def _scatter(self, slice: Slice) -> None:
        blocks = slice.sequence.blocks
        tokens = self._whole.get(blocks, slice.end)
        for pool in self._pools:
            heads = pool.layout.heads
            pool.put(blocks, tokens[:, :, :, heads.start : heads.stop])
