"""How many requests a second an assignment of roles serves within the target of their tokens.

A worker that decodes reads all weights in each step, which takes t0 of the time per output token τ:
(1 - t0/τ) of its time is left for prompts and answers. A prefill worker pays t0 once for a chunk.
With p seconds for a request's prompt, p0 for the fixed part of its chunks' steps and d for its
answer, workers that do both serve (1 - t0/τ)/(p + d) requests a second each; split ones
1/[(p + p0) + d/(1 - t0/τ)]. Prompts that the prefill workers cannot take are computed beside
answers. DistServe (OSDI 2024) has the step model; TaiChi (2025) discusses when either way wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.placing.candidates import step_limit_s
from router.placing.fleet_table import Flags, FleetTable, Floats
from router.placing.placement import TPOT_SHARE
from router.placing.workload import Workload

LEAST_S = 1e-9
ALIKE = 0.5
"""Width of a class of workers taken as equal, in the logarithm of a prompt token's time."""


@dataclass(frozen=True, slots=True)
class WorkRates:
    """Arrays over workers: what each can do in one role alone, for the present workload."""

    prompts_per_s: Floats
    answers_per_s: Floats
    """Answers within the target."""
    prompt_weight: Floats
    """Answers that a decode worker gives up for one prompt."""


def work_rates(
    table: FleetTable, rows: Sequence[int], workload: Workload, tpot_s: float
) -> WorkRates:
    """The rates of these rows, for a target of `tpot_s` per output token.

    A worker's own coefficients say little about work that it has not done for a while: a prefill
    worker can tell neither a step's fixed part from its chunk nor what a sequence adds. Workers
    that are alike have the medians of those that do such work.
    """
    answer = max(1.0, workload.answer_tokens)
    uncached = max(1.0, workload.uncached_tokens)
    seen = workload.cached_tokens + uncached / 2
    each_s = table.prompt_token_s[rows] + table.prompt_pair_s[rows] * seen
    context = workload.context_tokens
    growth_s = table.sequence_s[rows] + table.context_token_s[rows] * context
    decodes = table.decodes[rows]
    costs = np.maximum((each_s, table.step_s[rows], growth_s), LEAST_S)
    each_s, step_s, growth_s = _medians(
        table.kind[rows], costs, np.stack([~decodes, decodes, decodes])
    )
    prompt_s = each_s * uncached
    chunks_s = step_s * uncached / table.prefill_chunk_tokens[rows]
    limit_s = step_limit_s(tpot_s, answer)
    in_target = np.maximum(0.0, (TPOT_SHARE * limit_s - step_s) / growth_s)
    in_pool = table.pool_tokens[rows] / (context + answer / 2)
    num_decoding = np.minimum(in_target, in_pool)
    # Where the pool is the bound, a prompt lengthens steps that are within the target; where the
    # target is, it takes the place of sequences.
    fixed_s = np.where(in_pool < in_target, step_s / in_pool, 0.0)
    return WorkRates(
        prompts_per_s=1.0 / (prompt_s + chunks_s),
        answers_per_s=num_decoding / (answer * (step_s + num_decoding * growth_s)),
        prompt_weight=prompt_s / (answer * (growth_s + fixed_s)),
    )


def _medians(kinds: npt.NDArray[np.int64], costs: Floats, knows: Flags) -> Floats:
    """Each cost's medians over workers of its kind whose first cost is similar; over those that
    know it, if any does. All of shape [costs, rows]."""
    classes = np.stack([kinds, np.round(np.log(costs[0]) / ALIKE).astype(np.int64)], axis=1)
    _, members = np.unique(classes, axis=0, return_inverse=True)
    found = np.empty_like(costs)
    for number in range(members.max(initial=-1) + 1):
        alike = members.ravel() == number
        for each, told, known in zip(found, costs, knows & alike, strict=True):
            each[alike] = np.median(told[known if known.any() else alike])
    return found


def capacity(rates: WorkRates, prefills: Flags) -> float:
    """Requests a second that the workers serve when those flagged prefill, and the others decode
    and take the prompts that are left."""
    return float(_served(*work_sums(rates, prefills)))


def capacity_by_count(rates: WorkRates, order: Sequence[int]) -> Floats:
    """The capacity when the first n workers of this order prefill, for n from 0 up to all but
    one."""
    prompts = rates.prompts_per_s[order].cumsum()
    answers = rates.answers_per_s[order]
    weighted = answers * rates.prompt_weight[order]
    from_here = (each[::-1].cumsum()[::-1] for each in (answers, weighted))
    return _served(np.concatenate([[0.0], prompts[:-1]]), *from_here)


def capacity_by_change(rates: WorkRates, prefills: Flags, changes: Sequence[int]) -> Floats:
    """The capacity when one worker takes the other role, for each of `changes`."""
    prompts, answers, weighted = work_sums(rates, prefills)
    sign = np.where(prefills[changes], -1.0, 1.0)
    moved = sign * rates.answers_per_s[changes]
    return _served(
        prompts + sign * rates.prompts_per_s[changes],
        answers - moved,
        weighted - moved * rates.prompt_weight[changes],
    )


def work_sums(rates: WorkRates, prefills: Flags) -> tuple[float, float, float]:
    """Prompts a second of the workers that prefill, answers a second of the others, and these
    answers times their workers' weight of a prompt."""
    prompts = np.where(prefills, rates.prompts_per_s, 0.0)
    answers = np.where(prefills, 0.0, rates.answers_per_s)
    weighted = rates.prompt_weight * answers
    return float(prompts.sum()), float(answers.sum()), float(weighted.sum())


def _served(prompts: Floats | float, answers: Floats | float, weighted: Floats | float) -> Floats:
    """Requests a second by the sums over prefill workers and over decode workers."""
    weight = weighted / np.maximum(answers, LEAST_S)
    served: Floats = np.minimum(answers, (answers + prompts * weight) / (1.0 + weight))
    return served
