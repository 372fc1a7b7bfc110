"""A plot of what splitting gains: goodput over never splitting, by target, one panel per rate."""

from __future__ import annotations

import importlib
import importlib.util
import statistics
from pathlib import Path

import typer

from benchmarks.split_grid.cells import Outcome


def require(file: Path | None) -> None:
    """Raises typer.BadParameter where a plot is wanted and matplotlib is missing."""
    if file is not None and importlib.util.find_spec("matplotlib") is None:
        raise typer.BadParameter("--plot needs matplotlib: pip install matplotlib")


def save(found: list[Outcome], file: Path) -> None:
    """Write the plot; `file` ends in .svg or .png."""
    multiples = sorted({each.multiple for each in found})
    workloads = list(dict.fromkeys(each.workload for each in found))
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(3.6 * len(multiples), 4), layout="constrained"
    )
    panels = figure.subplots(1, len(multiples), sharey=True, squeeze=False)[0]
    for axes, multiple in zip(panels, multiples, strict=True):
        for workload in workloads:
            here = [e for e in found if (e.workload, e.multiple) == (workload, multiple)]
            targets = sorted({each.tpot_s for each in here})
            gains = [
                statistics.fmean(e.over_never for e in here if e.tpot_s == target)
                for target in targets
            ]
            axes.plot([1e3 * each for each in targets], gains, marker="o", label=workload)
        axes.axhline(1.0, color="black", linewidth=0.5)
        axes.set_xscale("log")
        axes.set_title(f"{multiple:g} of saturation")
        axes.set_xlabel("TPOT target, ms")
    panels[0].set_ylabel("goodput of auto over never splitting")
    panels[-1].legend(fontsize="small")
    figure.savefig(file)
