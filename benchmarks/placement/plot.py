"""A plot of goodput over load, with one panel per trace."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path


def can_plot() -> bool:
    """Whether matplotlib is installed, which is optional."""
    return importlib.util.find_spec("matplotlib") is not None


def save(sweeps: dict[str, dict[float, dict[str, float]]], file: Path) -> None:
    """Write the plot; `file` ends in .svg or .png."""
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(4.5 * len(sweeps), 4), layout="constrained"
    )
    panels = figure.subplots(1, len(sweeps), sharey=True, squeeze=False)[0]
    for axes, (name, found) in zip(panels, sweeps.items(), strict=True):
        for policy in next(iter(found.values())):
            shares = [goods[policy] for goods in found.values()]
            axes.plot(list(found), shares, marker="o", label=policy)
        axes.set_title(name)
        axes.set_xlabel("requests a second")
        axes.set_ylim(0, 1.02)
    panels[0].set_ylabel("within both targets")
    panels[0].legend()
    figure.savefig(file)
