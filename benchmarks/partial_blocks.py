"""The worth of copying a block whose first tokens are shared, beside computing them again.

    python -m benchmarks.partial_blocks [--prompt 520] [--branches 7] [--rounds 7]

CPU time until all sequences have their first token, medians of both ways in alternation: of
branches of a running sequence, of its prompt repeated, and of a next turn behind its answer.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterable
from typing import Annotated

import typer

from cluster.bundled import BUNDLED_MODEL
from decode_worker.scheduler import DecodePolicy
from engine.cache.block_pool import BlockPool
from engine.cache.kv_memory import KvMemory
from engine.engine import Engine
from engine.runners.torch_loading import load_torch_runner
from engine.runners.torch_runner import TorchRunner
from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.sampling import SamplingParams

NUM_BLOCKS = 2048
SAMPLING = SamplingParams(max_tokens=32, temperature=0.0, ignore_eos=True)
NEXT_TURN = [7, 8, 9, 10, 11]


class WholeBlocksOnly(KvMemory):
    """The prefix cache without partial blocks."""

    def _share_partial_block(self, sequence: Sequence, neighbours: Iterable[Sequence]) -> None:
        return


def main(
    prompt: Annotated[int, typer.Option(help="Tokens.")] = 520,
    branches: Annotated[int, typer.Option(help="Sequences with a running one's prompt.")] = 7,
    rounds: Annotated[int, typer.Option(help="Of each way.")] = 7,
) -> None:
    runner = load_torch_runner(BUNDLED_MODEL, device="cpu", threads=1)
    runner.allocate(NUM_BLOCKS)
    draw = random.Random(0)
    costs: dict[str, list[list[float]]] = {"copied": [], "computed": []}
    for _ in range(rounds):
        for way, found in costs.items():
            tokens = [draw.randrange(5, runner.vocab_size) for _ in range(prompt)]
            found.append(_measure(runner, tokens, branches, copies=way == "copied"))
    for way, found in costs.items():
        cells = [f"{statistics.median(each) * 1e3:.1f}" for each in zip(*found, strict=True)]
        print(f"{way}: branches {cells[0]} ms, repeated {cells[1]} ms, next turn {cells[2]} ms")


def _measure(runner: TorchRunner, prompt: list[int], branches: int, *, copies: bool) -> list[float]:
    pool = BlockPool(NUM_BLOCKS)
    engine = Engine(runner, pool, DecodePolicy(chunk_tokens=1 << 20))
    if not copies:
        engine.memory = WholeBlocksOnly(runner, pool)
    first = Sequence(AttemptId("first"), list(prompt), SAMPLING)
    engine.add(first)
    while not first.num_output:
        engine.step()
    return [
        _first_tokens_s(engine, [list(prompt) for _ in range(branches)]),
        _first_tokens_s(engine, [list(prompt)]),
        _first_tokens_s(engine, [first.tokens + NEXT_TURN]),
    ]


def _first_tokens_s(engine: Engine, prompts: list[list[int]]) -> float:
    """CPU seconds until all have a token; then everything runs to its end."""
    sequences = [
        Sequence(AttemptId(str(number)), tokens, SAMPLING) for number, tokens in enumerate(prompts)
    ]
    began = time.process_time()
    for sequence in sequences:
        engine.add(sequence)
    while not all(sequence.num_output for sequence in sequences):
        engine.step()
    spent_s = time.process_time() - began
    while engine.busy:
        engine.step()
    return spent_s


if __name__ == "__main__":
    typer.run(main)
