"""What a step costs beside the model: sampling on the device, and the host's own time.

Tokens that are drawn on the device must be those that a CPU draws from the same logits. The host's
time is that of launching a step and of the engine's bookkeeping, without waiting for the device; a
profile says which functions take it, block tables among them.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.context import Context, guarded
from benchmarks.gpu.draws import KINDS, drawing_sequences
from benchmarks.gpu.finding import Finding, bar_at_most, check, figure, note
from benchmarks.gpu.models import SMALL, TINY, Variant, make_runner, random_parameters
from benchmarks.gpu.rates import best_s
from benchmarks.gpu.steps import MAX_TOKENS, Driver
from engine.model.config import ModelConfig
from engine.sampler.sampler import Sampler
from engine.sequence import Sequence

ROOT = Path(__file__).resolve().parents[3]
MOST_HOST_S = 400e-6
SHOWN_FUNCTIONS = 8


@dataclass(frozen=True, slots=True)
class Size:
    vocab_size: int
    batches: tuple[int, ...]
    model: ModelConfig
    rows: int
    context: int
    steps: int


GPU = Size(128256, (32, 256), SMALL, 256, 2048, 64)
CPU = Size(2000, (4,), TINY, 4, 32, 8)


def run(context: Context) -> Iterator[Finding]:
    size = GPU if context.on_gpu else CPU
    for kind in KINDS:
        yield from guarded(context, kind, lambda kind=kind: _sampling(context, size, kind))
    yield from guarded(context, "host time", lambda: _host(context, size))


def _sampling(context: Context, size: Size, kind: str) -> Iterator[Finding]:
    torch.manual_seed(0)
    logits = 3 * torch.randn(max(size.batches), size.vocab_size, device=context.device)
    few = min(8, len(logits))
    ours, expected = (_drawn(logits[:few].to(device), kind) for device in (context.device, "cpu"))
    same = sum(one == other for one, other in zip(ours, expected, strict=True))
    yield check(f"sampling, {kind}", same == few, f"{same} of {few} tokens as a CPU draws them")
    for batch in size.batches:
        sampler, sequences = Sampler(frozenset()), drawing_sequences(batch, kind)
        part = logits[:batch].clone()
        seconds = best_s(_drawing(sampler, part, sequences), context.torch_device)
        text = f"{seconds * 1e3:7.3f} ms on the device"
        yield figure(f"sampling, {kind}, batch {batch}", text, ms=seconds * 1e3)


def _drawing(sampler: Sampler, logits: Tensor, sequences: list[Sequence]) -> Callable[[], object]:
    @torch.inference_mode()
    def draw() -> object:
        return sampler.draw(logits, sequences)

    return draw


@torch.inference_mode()
def _drawn(logits: Tensor, kind: str) -> list[int]:
    drawn = Sampler(frozenset()).sample(logits.clone(), drawing_sequences(len(logits), kind))
    return [sampled.token for sampled in drawn]


@dataclass(slots=True)
class _Stopwatch:
    """Times a runner's launches, and the waits for what they compute."""

    launches: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def watch(self, runner: Any) -> None:
        launch = runner.launch

        def timed(*arguments: object, **named: object) -> Callable[[], object]:
            started = time.perf_counter()
            collect = launch(*arguments, **named)
            self.launches.append(time.perf_counter() - started)
            return lambda: self._wait(collect)

        runner.launch = timed

    def _wait(self, collect: Callable[[], object]) -> object:
        started = time.perf_counter()
        collected = collect()
        self.waits.append(time.perf_counter() - started)
        return collected

    def clear(self) -> None:
        self.launches.clear()
        self.waits.clear()


def _host(context: Context, size: Size) -> Iterator[Finding]:
    parameters = random_parameters(size.model, torch.bfloat16, context.torch_device)
    num_blocks = size.rows * -(-(size.context + MAX_TOKENS) // 16)
    runner = make_runner(size.model, parameters, Variant("graphs"), num_blocks, size.rows)
    watch = _Stopwatch()
    watch.watch(runner)
    driver = Driver(runner, num_blocks)
    sequences = driver.decoding(size.rows, size.context)
    name = f"{size.rows} rows of {size.context} tokens"
    steps = [_step_s(driver, watch) for _ in range(size.steps)]
    launch_s, rest_s = (statistics.median(column) for column in zip(*steps, strict=True))
    text = f"{launch_s * 1e6:.0f} us launching a step, {rest_s * 1e6:.0f} us beside it"
    if not context.on_gpu:
        text += ", computing included"
    yield figure(f"host, {name}", text, launch_us=launch_s * 1e6, rest_us=rest_s * 1e6)
    if context.on_gpu:
        yield bar_at_most(f"host us a step, {name}", (launch_s + rest_s) * 1e6, MOST_HOST_S * 1e6)
    yield from _profile(driver, size.steps)
    driver.end(sequences)


def _step_s(driver: Driver, watch: _Stopwatch) -> tuple[float, float]:
    """Seconds of one step's launch, and of what is neither launch nor wait."""
    watch.clear()
    started = time.perf_counter()
    driver.engine.step()
    whole = time.perf_counter() - started
    launch_s, wait_s = sum(watch.launches), sum(watch.waits)
    return launch_s, max(0.0, whole - launch_s - wait_s)


def _profile(driver: Driver, steps: int) -> Iterator[Finding]:
    """The functions of ours with the most time of their own, as the profiler sees it."""
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(steps):
        driver.engine.step()
    profile.disable()
    found: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    ours = [it for it in found.items() if it[0][0].startswith(f"{ROOT}/engine/")]
    ours.sort(key=lambda it: -it[1][2])
    for (path, _, function), (_, calls, own_s, all_s, _) in ours[:SHOWN_FUNCTIONS]:
        times = f"{own_s / steps * 1e6:6.0f} us own, {all_s / steps * 1e6:6.0f} us in all"
        place = f"{Path(path).relative_to(ROOT)}, {function}"
        yield note("profile, a step", f"{times}, {calls / steps:5.1f} calls: {place}")
