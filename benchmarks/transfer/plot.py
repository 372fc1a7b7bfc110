"""A plot of the rates over block sizes, with one line per path."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from benchmarks.transfer.rates import Rates


def can_plot() -> bool:
    """Whether matplotlib is installed, which is optional."""
    return importlib.util.find_spec("matplotlib") is not None


def save(rates: list[Rates], file: Path) -> None:
    """Plot the largest total, in scattered blocks. `file` ends in .svg or .png."""
    total = max(found.case.total_bytes for found in rates)
    shown = [found for found in rates if found.case.total_bytes == total and found.case.scattered]
    sizes = [found.case.block_bytes >> 10 for found in shown]
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(7, 4.5), layout="constrained"
    )
    axes = figure.subplots()
    for path in shown[0].paths:
        axes.plot(sizes, [found.gb_s(path) for found in shown], marker="o", label=path)
    copies = [found.copy_gb_s for found in shown]
    axes.plot(sizes, copies, color="grey", linestyle="--", label="memory copy in one piece")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("block, KiB")
    axes.set_ylabel("GB/s")
    axes.set_title(f"{total >> 20} MiB in scattered blocks, between two processes")
    axes.legend()
    figure.savefig(file)
