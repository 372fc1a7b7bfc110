"""The benefit of the host memory tier: prompts that recur after their eviction.

    python -m benchmarks.host_memory [--model 125m] [--dtype bfloat16] [--threads 1] [--cache DIR]

Eight prompts alternate in a cache that holds slightly less than five of them.
"""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.checkpoints import SHAPES, directory_of
from cluster.bundled import BUNDLED_MODEL
from decode_worker.scheduler import DecodePolicy
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.runners.torch_loading import load_torch_runner
from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.sampling import SamplingParams
from worker.build import make_host_tier

NUM_PROMPTS = 8
CACHED_PROMPTS = 4.8
SETTLE_STEPS = 20
"""Empty steps between requests, in which blocks are offloaded."""


class Bench:
    """An engine, with or without host memory."""

    def __init__(self, directory: Path, dtype: str, threads: int, length: int, host: bool) -> None:
        self._runner = load_torch_runner(directory, device="cpu", dtype=dtype, threads=threads)
        layout = self._runner.layout
        num_blocks = int(CACHED_PROMPTS * layout.num_blocks(length + 8))
        region, pool = self._runner.allocate(num_blocks), BlockPool(num_blocks)
        host_bytes = 2 * NUM_PROMPTS * layout.num_blocks(length + 8) * layout.block_bytes
        self.tier = make_host_tier(host_bytes if host else 0, layout, pool, region)
        self._engine = Engine(self._runner, pool, DecodePolicy(), None, self.tier)
        draw = random.Random(0)
        vocab_size = self._runner.vocab_size
        self._prompts = [
            [draw.randrange(5, vocab_size) for _ in range(length)] for _ in range(NUM_PROMPTS)
        ]
        self._num_asked = 0

    def turn(self) -> float:
        """Median seconds to the first token over all prompts."""
        return statistics.median(self._ask(prompt) for prompt in self._prompts)

    def close(self) -> None:
        self._engine.memory.close()

    def _ask(self, prompt: list[int]) -> float:
        self._num_asked += 1
        sampling = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
        sequence = Sequence(AttemptId(str(self._num_asked)), list(prompt), sampling)
        started = time.perf_counter()
        self._engine.add(sequence)
        while sequence.num_output == 0:
            self._step()
        seconds = time.perf_counter() - started
        for _ in range(SETTLE_STEPS):
            while self._engine.busy:
                self._step()
            self._engine.step()
        return seconds

    def _step(self) -> None:
        started = time.perf_counter()
        self._engine.step()
        if self._engine.completed_slices:
            self._engine.observe(time.perf_counter() - started)


def main(
    model: Annotated[
        str, typer.Option(help=f"Model directory, or {' or '.join(SHAPES)} with random weights.")
    ] = str(BUNDLED_MODEL),
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    threads: Annotated[int, typer.Option(help="Of torch.")] = 1,
    length: Annotated[int, typer.Option(help="Tokens of a prompt.")] = 512,
    cache: Annotated[Path | None, typer.Option(help="Where to keep random checkpoints.")] = None,
) -> None:
    with directory_of(model, cache) as directory:
        for host in (False, True):
            bench = Bench(directory, dtype, threads, length, host)
            first, again = bench.turn(), bench.turn()
            name = "with host memory" if host else "without"
            print(f"{name}: first token after {first * 1e3:.1f} ms, again {again * 1e3:.1f} ms")
            if bench.tier is not None:
                print(f"blocks are copied at {bench.tier.costs.bytes_per_s / 1e9:.1f} GB/s")
            bench.close()


if __name__ == "__main__":
    typer.run(main)
