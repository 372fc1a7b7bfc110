"""Decode steps and prompts of a model's shape with random weights, beside the device's limits.

A decode step's floor is what it must read, at the bandwidth that was measured in the same run; a
prompt's is what it must multiply, at the rate that was measured. MFU is the usual one: relative to
the rate that the vendor gives, where it is known here.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from benchmarks.engine.floors import Rates, Work
from benchmarks.gpu.context import Context, guarded
from benchmarks.gpu.finding import Finding, bar, figure, skipped
from benchmarks.gpu.models import (
    BLOCK_SIZE,
    SHAPES,
    TINY,
    Variant,
    auto_attention,
    make_runner,
    random_parameters,
)
from benchmarks.gpu.rates import measure_rates
from benchmarks.gpu.steps import MAX_TOKENS, Driver
from engine.model.config import ModelConfig
from engine.model.parameters import Parameters

VENDOR_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12, "L40S": 362e12}
"""Dense bfloat16 products of the SXM forms, by what is in the device's name."""
DECODE_BAR, MFU_BAR = 0.8, 0.55
BARRED_BATCHES, BARRED_PROMPT = (1, 32), 4096
SPARE_BYTES = 12 << 30
"""Left free beside weights and cache, for what steps compute with."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one variant is measured with."""

    variant: Variant
    batches: tuple[int, ...]
    prompts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Size:
    loads: tuple[Load, ...]
    context: int
    steps: int
    rounds: int


PLAIN = Variant("PyTorch, eager", graphs=False, ahead=False, fused=False)
EAGER = Variant("Triton, eager", graphs=False)
TORCH = Variant("Triton, graphs")
FLASHINFER = Variant("FlashInfer, graphs", "flashinfer")
BATCHES, PROMPTS = (1, 32, 256), (512, 2048, 4096, 8192)
GPU = Size(
    (Load(TORCH, BATCHES, PROMPTS), Load(EAGER, (1, 32), ()), Load(PLAIN, (1, 32), (2048,))),
    context=512,
    steps=64,
    rounds=4,
)
CPU = Size((Load(TORCH, (1, 4), (32,)), Load(PLAIN, (4,), ())), context=16, steps=4, rounds=1)


def run(context: Context) -> Iterator[Finding]:
    name = context.part.partition("-")[2]
    config = SHAPES[name] if context.on_gpu else TINY
    size = GPU if context.on_gpu else CPU
    rates = measure_rates(context.torch_device)
    text = f"{rates.read_bytes_per_s / 1e12:.3f} TB/s, {rates.flops_per_s / 1e12:.1f} TFLOP/s"
    yield figure("the device", text, bytes_s=rates.read_bytes_per_s, flops=rates.flops_per_s)
    parameters = random_parameters(config, torch.bfloat16, context.torch_device)
    loads, chosen = size.loads, TORCH
    if auto_attention(context.torch_device, config) == "flashinfer":
        loads, chosen = (Load(FLASHINFER, BATCHES, PROMPTS), *loads), FLASHINFER
    for load in loads:
        measured = _Measured(context, size, config, parameters, rates, load, load.variant is chosen)
        yield from guarded(context, load.variant.name, measured.findings)
        gc.collect()
        context.free_cache()


@dataclass(frozen=True, slots=True)
class _Measured:
    context: Context
    size: Size
    config: ModelConfig
    parameters: Parameters
    rates: Rates
    load: Load
    barred: bool
    """Whether it is the variant that workers choose, which the bars are for."""

    def findings(self) -> Iterator[Finding]:
        load, num_blocks = self.load, self._num_blocks()
        batches = [it for it in load.batches if self._needed(it) <= num_blocks]
        prompts = [it for it in load.prompts if _blocks_of(it) <= num_blocks]
        left_out = [f"batch {it}" for it in load.batches if it not in batches]
        left_out += [f"prompt of {it}" for it in load.prompts if it not in prompts]
        yield from (skipped(f"{load.variant.name}, {it}", "needs more memory") for it in left_out)
        if not batches and not prompts:
            return
        most = max(batches, default=1)
        runner = make_runner(self.config, self.parameters, load.variant, num_blocks, most)
        driver = Driver(runner, num_blocks, ahead=load.variant.ahead)
        for batch in batches:
            yield from self._decode(driver, batch)
        for length in prompts:
            yield from self._prefill(driver, length)

    def _decode(self, driver: Driver, batch: int) -> Iterator[Finding]:
        size, name = self.size, f"decode, batch {batch}"
        seconds = driver.decode_s(batch, size.context, size.steps)
        work, context = Work.of(self.config), size.context + size.steps // 2
        share = work.decode_s(self.rates, 2, batch, context) / seconds
        text = f"{seconds * 1e3:8.3f} ms, {batch / seconds:8.0f} tokens/s, {share:.2f} of the floor"
        yield self._figure(name, text, ms=seconds * 1e3, share=share)
        if self._has_bar and batch in BARRED_BATCHES:
            yield bar(f"8B bfloat16, {name}", share, DECODE_BAR)

    def _prefill(self, driver: Driver, length: int) -> Iterator[Finding]:
        name = f"prompt of {length}"
        seconds = driver.prefill_s(length, self.size.rounds)
        floor_s = Work.of(self.config).prefill_s(self.rates, length)
        share, mfu = floor_s / seconds, floor_s * self.rates.flops_per_s / seconds / self._peak()
        text = (
            f"{seconds * 1e3:8.3f} ms, {length / seconds:8.0f} tokens/s, {share:.2f} of the floor"
        )
        yield self._figure(name, f"{text}, MFU {mfu:.2f}", ms=seconds * 1e3, share=share, mfu=mfu)
        if self._has_bar and length == BARRED_PROMPT:
            yield bar(f"8B bfloat16, {name}, MFU", mfu, MFU_BAR)

    def _figure(self, name: str, text: str, **figures: float) -> Finding:
        return figure(f"{self.load.variant.name}, {name}", text, **figures)

    @property
    def _has_bar(self) -> bool:
        return self.barred and self.config is SHAPES["8b"]

    def _peak(self) -> float:
        """The vendor's FLOP/s, or what was measured."""
        if not self.context.on_gpu:
            return self.rates.flops_per_s
        name = torch.cuda.get_device_name(self.context.torch_device)
        known = (flops for part, flops in VENDOR_FLOPS.items() if part in name)
        return next(known, self.rates.flops_per_s)

    def _num_blocks(self) -> int:
        """As many as the load needs, or as the memory has room for."""
        wanted = max(*map(self._needed, self.load.batches), *map(_blocks_of, self.load.prompts), 1)
        if not self.context.on_gpu:
            return wanted
        free, _ = torch.cuda.mem_get_info(self.context.torch_device)
        token_bytes = 2 * Work.of(self.config).token_elements
        return max(1, min(wanted, (free - SPARE_BYTES) // (token_bytes * BLOCK_SIZE)))

    def _needed(self, batch: int) -> int:
        return batch * _blocks_of(self.size.context)


def _blocks_of(num_tokens: int) -> int:
    """Blocks of a sequence that has this many tokens, and MAX_TOKENS to come."""
    return -(-(num_tokens + MAX_TOKENS) // BLOCK_SIZE)
