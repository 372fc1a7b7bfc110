"""Checks and measures the engine on a GPU, with models of random weights.

    python -m benchmarks.gpu [--json FILE] [--shapes 1b,8b]

First every variant of the computation is compared with the simplest one. Then decode steps are
rated by the bandwidth that they reach, as a fraction of the bandwidth measured in the same run, and
prefill by its model FLOP utilization (MFU). Takes some minutes.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.engine.floors import Rates, Work
from benchmarks.gpu.models import (
    BLOCK_SIZE,
    SHAPES,
    Variant,
    make_runner,
    random_parameters,
)
from benchmarks.gpu.parity import Parity, check_parity
from benchmarks.gpu.rates import measure_rates
from benchmarks.gpu.steps import STEPS, WARM_STEPS, Driver
from engine.attention.flashinfer_backend import has_flashinfer

BATCHES = (1, 32)
PROMPTS = (512, 4096)
CONTEXT = 512
NUM_BLOCKS = -(-max(4096 + 1024, 32 * (CONTEXT + WARM_STEPS + STEPS + 1024)) // BLOCK_SIZE)

PLAIN = Variant("torch, eager", graphs=False, ahead=False, fused=False)
FUSED = [
    Variant("fused, eager", graphs=False),
    Variant("fused, graphs, one at a time", ahead=False),
    Variant("fused, graphs", ahead=True),
]
FLASHINFER = [
    Variant("flashinfer, eager", "flashinfer", graphs=False),
    Variant("flashinfer, graphs", "flashinfer"),
]


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement; `fraction` is the fraction of the device's limit that is reached."""

    shape: str
    variant: str
    work: str
    seconds: float
    floor_s: float

    @property
    def fraction(self) -> float:
        return self.floor_s / self.seconds


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write it all.")] = None,
    shapes: Annotated[str, typer.Option(help="Of 1b and 8b, with commas.")] = "1b,8b",
) -> None:
    unknown = set(shapes.split(",")) - set(SHAPES)
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: none of {', '.join(SHAPES)}")
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was checked or measured")
        raise typer.Exit(1)
    started, device = time.perf_counter(), torch.device("cuda", 0)
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    parities = list(_check(device))
    rates = measure_rates(device)
    print(f"reads {rates.read_bytes_per_s / 1e12:.2f} TB/s, ", end="")
    print(f"multiplies {rates.flops_per_s / 1e12:.0f} TFLOP/s in bfloat16")
    rows = [row for shape in shapes.split(",") for row in _measure(shape, rates, device)]
    print(f"took {time.perf_counter() - started:.0f} s")
    if json_path is not None:
        found = {
            "device": torch.cuda.get_device_name(device),
            "torch": str(torch.__version__),
            "rates": asdict(rates),
            "parity": [asdict(parity) for parity in parities],
            "rows": [{**asdict(row), "fraction": row.fraction} for row in rows],
        }
        json_path.write_text(json.dumps(found, indent=1))
    if any(parity.wrong for parity in parities):
        raise typer.Exit(2)


def _check(device: torch.device) -> Iterator[Parity]:
    """Check that the variants generate equal tokens; without FlashInfer for float32."""
    with_flashinfer = [*FUSED, *FLASHINFER] if has_flashinfer() else FUSED
    for dtype, others in ((torch.float32, FUSED), (torch.bfloat16, with_flashinfer)):
        for parity in check_parity(device, dtype, [PLAIN, *others]):
            print(
                f"{parity.dtype:9} {parity.name:30} equal {parity.equal}, tied {parity.tied}, "
                f"wrong {parity.wrong}, log-probabilities within {parity.difference:.1e}",
                flush=True,
            )
            yield parity


def _measure(shape: str, rates: Rates, device: torch.device) -> Iterator[Row]:
    config = SHAPES[shape]
    parameters = random_parameters(config, torch.bfloat16, device)
    work = Work.of(config)
    for variant in [PLAIN, *FUSED, *(FLASHINFER if has_flashinfer() else [])]:
        runner = make_runner(config, parameters, variant, NUM_BLOCKS)
        driver = Driver(runner, variant, NUM_BLOCKS)
        for batch in BATCHES:
            floor_s = work.decode_s(rates, 2, batch, CONTEXT + WARM_STEPS + STEPS // 2)
            seconds = driver.decode_s(batch, CONTEXT)
            yield _told(Row(shape, variant.name, f"decode, batch {batch}", seconds, floor_s))
        if not variant.graphs or "flashinfer" in variant.name:
            for length in PROMPTS:
                seconds, floor_s = driver.prefill_s(length), work.prefill_s(rates, length)
                yield _told(Row(shape, variant.name, f"prompt of {length}", seconds, floor_s))
        del runner, driver
        gc.collect()
        torch.cuda.empty_cache()


def _told(row: Row) -> Row:
    print(
        f"{row.shape:3} {row.variant:30} {row.work:16} {row.seconds * 1e3:8.3f} ms, "
        f"floor {row.floor_s * 1e3:8.3f} ms, {row.fraction:.2f}",
        flush=True,
    )
    return row


if __name__ == "__main__":
    typer.run(main)
