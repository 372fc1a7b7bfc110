"""A small model, and its answers without any transfer."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from engine.runners.torch_loading import load_torch_runner
from engine.runners.torch_runner import TorchRunner
from tests.engine.driver import decode, make_sequence, output
from tests.engine.reference import prompt
from tests.kv_transfer.pools import GARBAGE, Pool
from wire.layout import KvLayout

PROMPT = prompt(67)  # no whole number of blocks of any size, and more than one of the largest
NUM_OUTPUT = 32
MAX_TOKENS = 1024
"""What the pools hold."""


class Prefilled(NamedTuple):
    """What the prompt comes to: the first token, and [tokens, layers, 2, heads, head_size]."""

    first: int
    cache: Tensor


class Model:
    """One checkpoint; runners of it have a pool each, full of garbage."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.prefilled = cache(self._prefilled)
        self.alone = cache(self._alone)
        self.converted = cache(self._converted)

    @property
    def layout(self) -> KvLayout:
        """Of float32 in blocks of 16."""
        return self.runner().layout

    def runner(self, dtype: str = "float32", block_size: int = 16) -> TorchRunner:
        return load_torch_runner(self._directory, device="cpu", dtype=dtype, block_size=block_size)

    def pool(self, runner: TorchRunner) -> Pool:
        num_blocks = MAX_TOKENS // runner.layout.block_size
        memory = runner.allocate(num_blocks).keepalive
        assert isinstance(memory, Tensor)
        memory.fill_(GARBAGE)
        return Pool(runner.layout, num_blocks, memory)

    def decoded(self, cache: Tensor, dtype: str, block_size: int, first: int) -> list[int]:
        """The answer when this cache of the prompt is copied into the pool, token by token."""
        runner = self.runner(dtype, block_size)
        pool = self.pool(runner)
        blocks = scattered(pool)
        pool.put(blocks, torch.zeros_like(cache[:1]).expand(2 * len(PROMPT), *cache.shape[1:]))
        pool.put(blocks, cache)
        return continued(runner, blocks, first)

    def _converted(self, dtype: str, other: str, block_size: int) -> list[int]:
        """The answer when the cache is cast to another dtype, and nothing else happens to it."""
        first, cache = self.prefilled(dtype)
        return self.decoded(cache.to(getattr(torch, other)), other, block_size, first)

    def _prefilled(self, dtype: str) -> Prefilled:
        runner = self.runner(dtype)
        pool = self.pool(runner)
        sequence = make_sequence(PROMPT)
        sequence.blocks = scattered(pool)
        decode(runner, [sequence], 1)
        return Prefilled(output(sequence)[0], pool.get(sequence.blocks, len(PROMPT)))

    def _alone(self, dtype: str, block_size: int) -> list[int]:
        runner = self.runner(dtype, block_size)
        sequence = make_sequence(PROMPT)
        sequence.blocks = scattered(self.pool(runner))
        decode(runner, [sequence], NUM_OUTPUT)
        return output(sequence)


@contextmanager
def one_thread() -> Iterator[None]:
    """Tiny products lose more by waiting for a second thread than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def continued(runner: TorchRunner, blocks: Seq[int], first: int) -> list[int]:
    """The answer that begins with `first`, decoded from the prompt's cache in these blocks."""
    sequence = make_sequence([*PROMPT, first], num_prompt=len(PROMPT))
    sequence.blocks, sequence.num_computed = list(blocks), len(PROMPT)
    decode(runner, [sequence], NUM_OUTPUT)
    return output(sequence)


def scattered(pool: Pool) -> list[int]:
    """All blocks, neighbours apart."""
    return sorted(range(pool.num_blocks), key=lambda block: (block % 3, block))
