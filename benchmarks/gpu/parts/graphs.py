"""Captured decode steps against eager ones: equal tokens, whatever the number of rows.

In float32, where rounding changes no token. Between the sizes that are captured, rows are padded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.distributed import HashStore

from benchmarks.gpu.context import Context, guarded
from benchmarks.gpu.finding import Finding, check, note, skipped
from benchmarks.gpu.models import SMALL, TINY, Variant, make_runner, random_parameters
from benchmarks.gpu.steps import Answer, Driver
from engine.device.torch_collective import TorchCollective
from engine.model.config import ModelConfig
from engine.runners.captured_step import GraphCapture, run_eagerly
from engine.runners.torch_runner import TorchRunner

EAGER = Variant("eager", graphs=False, ahead=False)
CAPTURED = Variant("captured")
TOLERANCE = 1e-3
"""Of log-probabilities in float32."""


@dataclass(frozen=True, slots=True)
class Size:
    model: ModelConfig
    rows: tuple[int, ...]
    prompt: int
    max_tokens: int
    num_blocks: int


GPU = Size(SMALL, (1, 2, 3, 8, 32), 100, 24, 1024)
CPU = Size(TINY, (1, 3, 8), 20, 4, 64)


def run(context: Context) -> Iterator[Finding]:
    size = GPU if context.on_gpu else CPU
    parameters = random_parameters(size.model, torch.float32, context.torch_device, spread=0.06)
    before, started = _allocated(context), time.perf_counter()
    captured = make_runner(size.model, parameters, CAPTURED, size.num_blocks)
    if context.on_gpu:
        seconds, grown = time.perf_counter() - started, _allocated(context) - before
        text = f"{seconds:.1f} s and {grown / 1e6:.0f} MB with the cache, for up to 32 rows"
        yield note("capture", text, seconds=seconds, bytes=grown)
    else:
        yield skipped("capture", "needs a GPU; the steps that it would capture are computed")
    eager = make_runner(size.model, parameters, EAGER, size.num_blocks)
    for rows in size.rows:
        yield from guarded(
            context, f"rows: {rows}", lambda rows=rows: _compare(eager, captured, rows, size)
        )
    yield from guarded(context, "NCCL", lambda: _collective(context))


def _allocated(context: Context) -> int:
    return torch.cuda.memory_reserved(context.torch_device) if context.on_gpu else 0


def _compare(eager: TorchRunner, captured: TorchRunner, rows: int, size: Size) -> Iterator[Finding]:
    lengths = [size.prompt + 7 * row for row in range(rows)]
    expected, found = (
        Driver(runner, size.num_blocks).answer(lengths, size.max_tokens)
        for runner in (eager, captured)
    )
    same = sum(ours.tokens == theirs.tokens for ours, theirs in zip(found, expected, strict=True))
    off = max(map(_distance, found, expected))
    yield check(
        f"rows: {rows}",
        same == rows and off <= TOLERANCE,
        f"{same} of {rows} answers equal, log-probabilities within {off:.1e}",
        difference=off,
    )


def _distance(one: Answer, other: Answer) -> float:
    """Largest difference of the chosen tokens' log-probabilities, up to the first other token."""
    pairs = zip(one.tokens, other.tokens, one.logprobs, other.logprobs, strict=True)
    differences = [0.0]
    for ours, theirs, our_logprob, their_logprob in pairs:
        if ours != theirs:
            break
        differences.append(abs(our_logprob.logprob - their_logprob.logprob))
    return max(differences)


def _collective(context: Context) -> Iterator[Finding]:
    """A sum over one rank within a captured graph: all of NCCL that one GPU can show."""
    collective, device = TorchCollective(0, 1), context.torch_device
    collective.connect(HashStore(), device)
    capture = GraphCapture(device) if context.on_gpu else run_eagerly
    values = torch.arange(8.0, device=device)
    replay = capture(lambda: collective.all_reduce(values) + 1)
    values.fill_(5.0)
    name = "NCCL in a graph" if context.on_gpu else "gloo"
    yield check(name, bool((replay() == 6.0).all()), "one rank")
