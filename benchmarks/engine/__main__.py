"""The engine beside the machine's floors and beside transformers, all of it in one run.

    python -m benchmarks.engine [--model 125m] [--dtype auto] [--instructions avx2] [--threads 1]
        [--cache DIR] [--prompt 512] [--batch 1] [--products]

Each figure is a median; each fraction is the floor divided by it, so that 1 is the best there is.
The floor of a decode step is the time to read all weights and the KV cache once, or to multiply
them, whichever is longer; that of a prompt is its products at the best rate that torch reaches.
`--dtype auto` keeps weights of bfloat16 and computes in float32, as workers do on CPUs. With
`--instructions` kernels and torch are held to those. `--products` puts products beside torch's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.checkpoints import SHAPES, directory_of
from benchmarks.engine.floors import Rates, Work
from benchmarks.engine.ours import Cost, Ours
from benchmarks.engine.overhead import overhead
from benchmarks.engine.products import LEAST, Kind, compare, matrices
from benchmarks.engine.rates import measure_rates
from benchmarks.engine.transformers_peer import Transformers
from cluster.bundled import BUNDLED_MODEL
from engine.kernels.library import try_load_kernels
from engine.kernels.targets import TARGETS
from engine.model.config import read_config

PROMPTS = [128, 512, 2048]
BATCHES = [1, 8, 32]
CONTEXT = 512
KINDS = {
    "float32": Kind(torch.float32, torch.float32),
    "bfloat16": Kind(torch.bfloat16, torch.bfloat16),
    "auto": Kind(torch.bfloat16, torch.float32),
}
TORCH_INSTRUCTIONS = {"avx2": "avx2", "avx512": "avx512", "generic": "default"}
"""What torch is held to by a target's name; it takes all that there is beside the others."""
OVERHEAD_US = {1: 150, 32: 400}
"""At most so much, in microseconds, for each batch size."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What is measured, and how often."""

    prompts: list[int]
    batches: list[int]
    rounds: int


def main(
    model: Annotated[
        str, typer.Option(help=f"Model directory, or {' or '.join(SHAPES)} with random weights.")
    ] = str(BUNDLED_MODEL),
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(KINDS)}.")] = "float32",
    instructions: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(it.name for it in TARGETS)}.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 1,
    cache: Annotated[Path | None, typer.Option(help="Where to keep random checkpoints.")] = None,
    rounds: Annotated[int, typer.Option(help="Of each measurement.")] = 10,
    peers: Annotated[bool, typer.Option(help="Measure transformers, too.")] = True,
    products: Annotated[bool, typer.Option(help="Compare single products.")] = False,
    prompt: Annotated[list[int], typer.Option(help="Its tokens. May be repeated.")] = PROMPTS,
    batch: Annotated[list[int], typer.Option(help="Sequences. May be repeated.")] = BATCHES,
) -> None:
    console = Console()
    if instructions is not None:
        _hold_to(instructions)
    console.print(_instructions_line())
    kind = KINDS[dtype]
    for size, most in OVERHEAD_US.items():  # before peers fill the process with their objects
        spent = overhead(size, 20 * rounds).wall_s * 1e6
        verdict = "met" if spent < most else "missed"
        console.print(
            f"a step of one tiny layer, batch {size}: {spent:.0f} us, bar {most}: {verdict}"
        )
    torch.set_num_threads(threads)
    with directory_of(model, cache) as directory:
        config = read_config(directory)
        rates = measure_rates(config, {torch.float32, kind.compute})
        console.print(_rates_line(rates, threads))
        ours = Ours(directory, dtype, threads)
        console.print(f"loaded in {ours.load_s:.1f} s")
        steps = Steps(prompt, batch, rounds)
        name = str(kind.compute).removeprefix("torch.")
        contenders = [ours, *([Transformers(directory, name)] if peers else [])]
        element_bytes = kind.weights.itemsize
        console.print(_table(contenders, Work.of(config), rates, element_bytes, steps))
    if products:
        console.print(_products_table(matrices(config), kind, rounds))


def _hold_to(instructions: str) -> None:
    """Before anything is computed; torch's libraries read these when they are first used."""
    os.environ["TANDEM_KERNELS"] = instructions
    if (name := TORCH_INSTRUCTIONS.get(instructions)) is not None:
        os.environ["ATEN_CPU_CAPABILITY"] = name
        if name != "default":
            isa = name if name == "avx2" else "avx512_core"
            os.environ["MKL_ENABLE_INSTRUCTIONS"] = name.upper()
            os.environ["ONEDNN_MAX_CPU_ISA"] = isa.upper()


def _instructions_line() -> str:
    kernels = try_load_kernels()
    ours = "none: torch computes" if kernels is None else kernels.target
    return f"kernels use {ours}, torch {torch.backends.cpu.get_cpu_capability()}"


def _products_table(shapes: list[tuple[int, int]], kind: Kind, rounds: int) -> Table:
    kernels = try_load_kernels()
    if kernels is None:
        raise SystemExit("there are no kernels to compare")
    table = Table("inputs", "outputs", "rows", title="kernels' speed beside torch's")
    found = list(compare(kernels, shapes, kind, 3 * rounds))
    for name in found[0].beside:
        table.add_column(name, justify="right")
    for it in found:
        cells = [f"{speed:.2f}" for speed in it.beside.values()]
        table.add_row(str(it.inputs), str(it.outputs), str(it.rows), *cells)
    least = min(speed for it in found for speed in it.beside.values())
    table.caption = f"least {least:.2f}, bar {LEAST}: {'met' if least >= LEAST else 'missed'}"
    return table


def _rates_line(rates: Rates, threads: int) -> str:
    return (
        f"{threads} threads read {rates.read_bytes_per_s / 1e9:.1f} GB/s and make "
        f"{rates.flops_per_s / 1e9:.0f} GFLOP/s"
    )


def _table(
    contenders: list[Ours | Transformers],
    work: Work,
    rates: Rates,
    element_bytes: int,
    steps: Steps,
) -> Table:
    table = Table("step", "floor ms", title="milliseconds a step")
    for contender in contenders:
        for column in (contender.name, "of floor", "CPU/token"):
            table.add_column(column, justify="right")
    for name, floor_s, num_tokens, costs in _measured(
        contenders, work, rates, element_bytes, steps
    ):
        cells = [cell for cost in costs for cell in _cells(cost, floor_s, num_tokens)]
        table.add_row(name, f"{floor_s * 1e3:.2f}", *cells)
    return table


def _cells(cost: Cost, floor_s: float, num_tokens: int) -> tuple[str, str, str]:
    cpu_ms = cost.cpu_s / num_tokens * 1e3
    return f"{cost.wall_s * 1e3:.2f}", f"{floor_s / cost.wall_s:.2f}", f"{cpu_ms:.3f}"


def _measured(
    contenders: list[Ours | Transformers],
    work: Work,
    rates: Rates,
    element_bytes: int,
    steps: Steps,
) -> Iterator[tuple[str, float, int, list[Cost]]]:
    """(name, floor in seconds, tokens, each contender's cost) of all steps."""
    for length in steps.prompts:
        costs = [it.prefill(length, max(2, steps.rounds // 3)) for it in contenders]
        yield f"prefill {length}", work.prefill_s(rates, length), length, costs
    for batch in steps.batches:
        costs = [it.decode(batch, CONTEXT, steps.rounds) for it in contenders]
        floor_s = work.decode_s(rates, element_bytes, batch, CONTEXT)
        yield f"decode, batch {batch}", floor_s, batch, costs


if __name__ == "__main__":
    typer.run(main)
