"""The price of each worker: alone, as a pair's prefill worker, or as its decode worker."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from router.placing.cost_model import Costs, Hits, estimate, risk
from router.placing.fleet_table import FleetTable, Floats
from router.placing.placement_request import RequestSize

SLO_MISS_S = 100.0
"""Penalty, in seconds, for a request that misses a target."""
NO_ROOM_S = 100.0
"""Penalty, in seconds, for a sequence whose worker has no free blocks for it."""
PATIENCE = 0.1
"""Weight of a second of decode time against a second of TTFT when there is a TPOT target: tokens
much faster than the target serve nobody."""
EVEN = 1e-4
"""Costs that differ by less than this share are equal, and drawn from."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Arrays over rows, in seconds; what is lost of targets is counted at SLO_MISS_S."""

    costs: Costs
    first_s: Floats
    """Computing the prompt there."""
    destination_s: Floats
    """Decoding the answer there."""
    tpot_s: Floats
    tie_break: Floats
    """Factors of about 1, by request and worker alone: they decide between equal costs."""


def price(
    table: FleetTable,
    work: RequestSize,
    targets: tuple[float | None, float | None],
    hits: Hits,
    key: str,
    now: float,
) -> Prices:
    """`targets` are for the first token, and for each further one; None where there is none."""
    ttft_target_s, tpot_target_s = targets
    costs = estimate(table, work, hits, now)
    patience = 1.0 if tpot_target_s is None else PATIENCE
    answer = work.num_new_tokens
    tpot_s = np.minimum(costs.mixed_s, costs.step_s + costs.interrupted_s / answer)
    first_s, destination_s = _delay_of_others(table, costs, answer)
    first_s += costs.ttft_s
    first_s += (patience * costs.prompt_s) * costs.num_decoding  # those who decode there wait
    destination_s += patience * answer * (tpot_s + costs.num_decoding * costs.growth_s / 2)
    destination_s += NO_ROOM_S * costs.missing
    if ttft_target_s is not None:
        first_s += SLO_MISS_S * risk(costs.ttft_s, ttft_target_s)
    if tpot_target_s is not None:
        by_prompt, by_answer = _tpot_misses(costs, tpot_s, answer, tpot_target_s)
        first_s += SLO_MISS_S * by_prompt
        destination_s += SLO_MISS_S * by_answer
    return Prices(costs, first_s, destination_s, tpot_s, tie_break=_tie_break(table, key))


def _delay_of_others(table: FleetTable, costs: Costs, answer: float) -> tuple[Floats, Floats]:
    """The delay of other prompts, in seconds: by this prompt, and by decoding its answer.

    Prompts in the queue wait longer. Prompts that arrive meanwhile may miss their TTFT target,
    unless the queue was too long for it already.
    """
    works = costs.machine_s, costs.growth_s * answer
    usual_s = table.usual_ttft_s
    if usual_s is None:
        return works[0] * table.num_prompts, works[1] * table.num_prompts
    lost_s, before = SLO_MISS_S * table.requests_per_s, risk(costs.queue_s, usual_s)
    prompt_s, answer_s = (
        work_s * (table.num_prompts + lost_s * (risk(costs.queue_s + work_s, usual_s) - before))
        for work_s in works
    )
    return prompt_s, answer_s


def _tpot_misses(
    costs: Costs, tpot_s: Floats, answer: float, target_s: float
) -> tuple[Floats, Floats]:
    """The expected number of further sequences that miss the TPOT target: those that decode beside
    this prompt, and those that decode beside its answer, the request itself included."""
    before_s = tpot_s - costs.growth_s
    after_s = np.minimum(costs.mixed_s - costs.growth_s, before_s + costs.prompt_s / answer)
    before, lost = risk(before_s, target_s), risk(tpot_s, target_s)
    by_prompt = (risk(after_s, target_s) - before) * costs.num_decoding
    return by_prompt, lost + costs.num_decoding * (lost - before)


def _tie_break(table: FleetTable, key: str) -> Floats:
    drawn = hashlib.blake2b(key.encode(), digest_size=8).digest()
    mixed = (table.tie_break_salt * np.uint64(int.from_bytes(drawn, "big") | 1)) >> np.uint64(40)
    return 1.0 + (EVEN / 2**24) * mixed.astype(np.float64)
