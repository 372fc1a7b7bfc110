"""What each worker would cost as a lone worker, as the first of a pair, or as its destination."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from router.placing.cost_model import Costs, Hits, Work, estimate, risk
from router.placing.fleet_table import FleetTable, Floats

LOST_S = 100.0
"""What a request is worth that meets its targets."""
FULL_S = 100.0
"""What it costs to send a sequence where there is no room for any of it."""
PATIENCE = 0.1
"""What a second of decoding counts beside one before the first token, where each token has a
target: nobody is better off for much less than that."""
EVEN = 1e-4
"""Costs that differ by less than this share are equal, and drawn from."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Arrays over rows, in seconds; what is lost of targets is counted at LOST_S."""

    costs: Costs
    first_s: Floats
    """Computing the prompt there."""
    first_lost: Floats
    destination_s: Floats
    """Decoding the answer there."""
    destination_lost: Floats
    tpot_s: Floats
    draw: Floats
    """About 1: among equal costs, it tells who is taken; by request and worker alone."""


def price(
    table: FleetTable,
    work: Work,
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
    destination_lost = _lost_tokens(costs, tpot_s, tpot_target_s)
    first_lost = risk(costs.ttft_s, ttft_target_s)
    return Prices(
        costs=costs,
        first_s=costs.ttft_s
        + LOST_S * first_lost
        + _held_up(table, costs, costs.machine_s)
        + _harm(costs, answer, tpot_target_s, patience),
        first_lost=first_lost,
        destination_s=patience * answer * (tpot_s + costs.num_decoding * costs.growth_s / 2)
        + FULL_S * costs.missing
        + _held_up(table, costs, costs.growth_s * answer)
        + LOST_S * destination_lost,
        destination_lost=destination_lost,
        tpot_s=tpot_s,
        draw=_draw(table, key),
    )


def _held_up(table: FleetTable, costs: Costs, machine_s: Floats) -> Floats:
    """What prompts behind this work lose: those that wait, and those that come meanwhile.

    The latter meet a longer queue; one that is too long already gets no worse.
    """
    held_up_s: Floats = machine_s * table.num_prompts
    usual_s = table.usual_ttft_s
    if usual_s is None:
        return held_up_s
    more = risk(costs.queue_s + machine_s, usual_s) - risk(costs.queue_s, usual_s)
    return held_up_s + LOST_S * table.requests_per_s * machine_s * more


def _harm(costs: Costs, answer: float, target_s: float | None, patience: float) -> Floats:
    """What this prompt takes from the sequences that decode where it is computed."""
    harm: Floats = patience * costs.prompt_s * costs.num_decoding
    if target_s is None:
        return harm
    most_s = costs.mixed_s - costs.growth_s
    before_s = np.minimum(most_s, costs.step_s - costs.growth_s + costs.interrupted_s / answer)
    after_s = np.minimum(most_s, before_s + costs.prompt_s / answer)
    more = risk(after_s, target_s) - risk(before_s, target_s)
    return harm + LOST_S * more * costs.num_decoding


def _lost_tokens(costs: Costs, tpot_s: Floats, target_s: float | None) -> Floats:
    """How many sequences would miss their target: this one, and others because of it."""
    if target_s is None:
        return np.zeros_like(tpot_s)
    lost = risk(tpot_s, target_s)
    return lost + costs.num_decoding * (lost - risk(tpot_s - costs.growth_s, target_s))


def _draw(table: FleetTable, key: str) -> Floats:
    drawn = hashlib.blake2b(key.encode(), digest_size=8).digest()
    mixed = (table.lot * np.uint64(int.from_bytes(drawn, "big") | 1)) >> np.uint64(40)
    return 1.0 + (EVEN / 2**24) * mixed.astype(np.float64)
