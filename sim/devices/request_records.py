"""Coefficients from what an engine logs of each request, where it does not log its steps."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from sim.devices.device import Coefficients
from sim.devices.errors import BadFit
from sim.devices.fit import NAMES, non_negative

LEAST_TOKENS = 8
"""A shorter answer says little about the steps that wrote it."""
Floats = npt.NDArray[np.float64]


class ServedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request that an engine has served; times are seconds of one clock."""

    num_prompt: int
    num_new: int
    started_s: float
    """When its prompt's first step began."""
    first_s: float
    last_s: float
    """When its first and its last token came."""


def fit_requests(served: Sequence[ServedRequest]) -> Coefficients:
    """Coefficients of the one worker that served these requests, by non-negative least squares.

    Between a request's first and last token the worker made one step for each further token. What
    these steps did for all requests follows from the others' times: their tokens are taken to be
    evenly spread, and so are prompts over their prefills. That holds while no sequence is
    preempted. Raises BadFit with fewer answers of LEAST_TOKENS tokens than coefficients.
    """
    columns = _Columns(served)
    answers = [each for each in served if each.num_new >= LEAST_TOKENS]
    if len(answers) < len(NAMES):
        raise BadFit(
            f"{len(answers)} answers of {LEAST_TOKENS} tokens or more: {len(NAMES)} needed"
        )
    rows = np.array([columns.work_between(each) for each in answers])
    steps = rows[:, 0]
    seconds = np.array([each.last_s - each.first_s for each in answers])
    found = non_negative(rows / steps[:, None], seconds / steps)
    return Coefficients(**dict(zip(NAMES, found.tolist(), strict=True)), noise=0.0)


class _Columns:
    """All requests' numbers as arrays."""

    def __init__(self, served: Sequence[ServedRequest]) -> None:
        self.num_prompt: Floats = np.array([each.num_prompt for each in served], float)
        self.num_steps: Floats = np.array([each.num_new - 1 for each in served], float)
        self.started_s: Floats = np.array([each.started_s for each in served])
        self.first_s: Floats = np.array([each.first_s for each in served])
        self.last_s: Floats = np.array([each.last_s for each in served])

    def work_between(self, one: ServedRequest) -> list[float]:
        """Steps, sequences, context tokens, prompt tokens and pairs from its first to its last
        token."""
        decode_s = np.maximum(self.last_s - self.first_s, 1e-9)
        begin = np.clip((one.first_s - self.first_s) / decode_s, 0, 1)
        end = np.clip((one.last_s - self.first_s) / decode_s, 0, 1)
        tokens = (end - begin) * self.num_steps
        context = tokens * (self.num_prompt + (begin + end) / 2 * self.num_steps)
        prefill_s = np.maximum(self.first_s - self.started_s, 1e-9)
        within = np.minimum(one.last_s, self.first_s) - np.maximum(one.first_s, self.started_s)
        prompts = np.clip(within / prefill_s, 0, 1) * self.num_prompt
        pairs = prompts * self.num_prompt / 2
        return [one.num_new - 1, tokens.sum(), context.sum(), prompts.sum(), pairs.sum()]
