"""A plot of goodput over the rate of requests, one line for each candidate."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from sim.plan.plan_errors import BadNeeds
from sim.plan.planner import PlanFound
from sim.plan.pool_choice import Needs
from sim.plan.trials import Trials

LOADS = (0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
FORMATS = (".svg", ".png", ".pdf")
Curve = Sequence[tuple[float, float]]
"""Pairs of requests a second and goodput, a share."""


def goodput_curves(found: PlanFound, trials: Trials) -> dict[str, Curve]:
    """By the label of each candidate, its goodput at LOADS times the rate."""
    rate = found.needs.requests_per_s
    choices = [each.trial.choice for each in found.candidates]
    return {
        choice.label: [(load * rate, trials.goodput(choice, load)) for load in LOADS]
        for choice in choices
    }


def check_plot(file: Path) -> None:
    """Raises BadNeeds where the file's format is unknown or the plotting library is missing."""
    if file.suffix not in FORMATS:
        raise BadNeeds(f"--plot {file}: the name must end in {', '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise BadNeeds(
            "--plot needs matplotlib, which the extra `plot` installs: "
            "pip install 'tandem-serve[plot]'"
        )


def save_plot(curves: Mapping[str, Curve], needs: Needs, file: Path) -> None:
    """Write the plot. Equal curves give equal files: dates and random names are left out."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.rcParams.update({"svg.hashsalt": "tandem plan", "svg.fonttype": "none"})
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(8, 4.5), layout="constrained"
    )
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), marker="o", markersize=4, label=name)
    axes.axvline(needs.requests_per_s, color="grey", linestyle=":", linewidth=1)
    axes.axhline(needs.attainment, color="grey", linestyle="--", linewidth=1)
    axes.annotate(
        f"{needs.requests_per_s:g}/s wanted",
        (needs.requests_per_s, 0.02),
        xytext=(4, 0),
        textcoords="offset points",
        color="grey",
    )
    axes.set_xlabel("requests a second")
    axes.set_ylabel("share within both targets")
    axes.set_ylim(0, 1.02)
    axes.set_title(
        f"first token within {needs.ttft_s:g} s, {1e3 * needs.tpot_s:g} ms for each further one"
    )
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    metadata = {"Date": None} if file.suffix == ".svg" else None
    figure.savefig(file, metadata=metadata)
