"""Coefficients from measurements: from steps, or from what a worker reports of its own."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt

from sim.devices.device import Coefficients, MeasuredStep
from sim.devices.errors import BadFit
from sim.machine import MachineModel
from wire.reports import StepCosts

NAMES = ("step_s", "sequence_s", "context_token_s", "prompt_token_s", "prompt_pair_s")
USUAL = MachineModel()
Floats = npt.NDArray[np.float64]


def fit_steps(steps: Iterable[MeasuredStep]) -> Coefficients:
    """Non-negative least squares of the steps' relative errors, whose spread is the noise.

    A kind of work that no step has costs nothing. Raises BadFit with fewer steps than kinds of
    work.
    """
    rows = list(steps)
    work = np.array([_work(step) for step in rows], float).reshape(-1, len(NAMES))
    seconds = np.array([step.seconds for step in rows])
    kinds = work.any(axis=0)
    if len(rows) < kinds.sum() or not len(rows):
        raise BadFit(f"{len(rows)} steps with {kinds.sum()} kinds of work: measure more of them")
    if seconds.min() <= 0:
        raise BadFit("a measured step took no time: seconds must be above 0")
    found = non_negative(work / seconds[:, None], np.ones(len(rows)))
    predicted = np.maximum(work @ found, 1e-12)
    noise = float(np.std(np.log(seconds / predicted)))
    return Coefficients(**dict(zip(NAMES, found.tolist(), strict=True)), noise=noise)


def machine_of_report(costs: StepCosts, base: MachineModel = USUAL) -> MachineModel:
    """The worker that reported these costs; pool, layout and links are those of `base`.

    Raises BadFit while the worker has not told all of them.
    """
    told = {name: getattr(costs, name) for name in NAMES}
    missing = [name for name, value in told.items() if value is None]
    if missing:
        raise BadFit(f"the worker has not told {', '.join(missing)}: let it serve more requests")
    return msgspec.structs.replace(base, **told)


def non_negative(rows: Floats, values: Floats) -> Floats:
    """The x >= 0 that minimizes |rows x - values|, by active sets. (Lawson, Hanson 1974, ch. 23)

    `rows` is [num_values, num_unknowns].
    """
    scale = np.maximum(np.linalg.norm(rows, axis=0), 1e-300)
    scaled = rows / scale
    x, active = np.zeros(rows.shape[1]), np.zeros(rows.shape[1], bool)
    for _ in range(10 * rows.shape[1]):
        gradient = scaled.T @ (values - scaled @ x)
        gradient[active] = -np.inf
        if gradient.max() <= 1e-10 * max(1.0, float(np.linalg.norm(values))):
            break
        active[int(gradient.argmax())] = True
        x = _within(scaled, values, x, active)
    found: Floats = x / scale
    return found


def _within(rows: Floats, values: Floats, x: Floats, active: npt.NDArray[np.bool_]) -> Floats:
    """The optimum over the active unknowns; those that would be negative leave the set."""
    while True:
        wanted = np.zeros_like(x)
        wanted[active] = np.linalg.lstsq(rows[:, active], values, rcond=None)[0]
        below = active & (wanted <= 0)
        if not below.any():
            return wanted
        step = np.min(x[below] / np.maximum(x[below] - wanted[below], 1e-300))
        x = x + step * (wanted - x)
        active &= x > 1e-12


def _work(step: MeasuredStep) -> tuple[float, ...]:
    return (
        1.0,
        step.num_decoding,
        step.context_tokens,
        step.prompt_tokens,
        step.prompt_pairs,
    )
