"""Candidates for a request: the cheapest pair of workers, and the cheapest worker alone."""

from __future__ import annotations

import numpy as np

from router.placing.cost_model import Hits, exposed_s
from router.placing.fleet_table import Flags, FleetTable, Floats
from router.placing.placement_request import PlacementRequest, Slo, is_crowded
from router.placing.prices import Prices

AVOID_S = 1e9
NUM_BEST = 4
"""Only the cheapest NUM_BEST first workers and destinations of each kind are paired."""
SAFE_SHARE = 0.5
"""Share of the TTFT target that a prompt may take beside sequences that decode, which may become
more."""
SHORT = 0.25
"""Length of a short answer, as a part of the mean: behind a handoff it is to keep its target."""
HANDOFF_STEPS = 0.75
"""Steps of its decode worker for which a sequence that is handed over waits until its first one."""
MODEL_ERROR = 0.4
"""Share of a lone worker's cost that splitting has to save: most predictions err by less."""

Candidate = tuple[float, int, int | None, float]
"""Cost in seconds, row of the first worker, row of the destination, and seconds that the handoff
adds."""


def pays(request: PlacementRequest, prices: Prices, pair: Candidate, lone: Candidate) -> bool:
    """Whether to split: the pair costs less by more than predictions err, and, where the request
    has targets, only the pair meets them.

    Where neither meets them, a pair would be late on two workers instead of one.
    """
    has_targets = request.slo != Slo()
    if has_targets and (_keeps(request.slo, prices, lone) or not _keeps(request.slo, prices, pair)):
        return False
    return pair[0] < (1 - MODEL_ERROR) * lone[0]


def spills(
    table: FleetTable,
    request: PlacementRequest,
    hits: Hits,
    prices: Prices,
    pair: Candidate,
    lone: Candidate,
) -> bool:
    """Whether a decode worker computes the prompt although there are prefill workers: it keeps both
    targets, and either has most of the prompt cached, or the prefill worker has enough to do."""
    row, first = lone[1], pair[1]
    if not _keeps(request.slo, prices, lone):
        return False
    if _is_crowded(table, prices, first) and _keeps_safely(request, prices, row, pair[2]):
        return True
    if not _keeps(request.slo, prices, pair):
        return True
    left = request.num_prompt_tokens - hits.either[row]
    return bool(lone[0] < pair[0] and left <= table.mixed_chunk_tokens[row])


def _is_crowded(table: FleetTable, prices: Prices, row: int) -> bool:
    costs = prices.costs
    queued = float(costs.queue_s[row]), float(table.num_prompts[row])
    return is_crowded(*queued, float(costs.queued_steps[row]))


def _keeps_safely(request: PlacementRequest, prices: Prices, row: int, other: int | None) -> bool:
    """A decode worker has time for the prompt even when more sequences come to it, and its steps
    stay short enough for what is handed over to it."""
    slo, costs = request.slo, prices.costs
    if slo.ttft_s is not None and costs.ttft_s[row] > SAFE_SHARE * slo.ttft_s:
        return False
    if slo.tpot_s is None or row != other:
        return True
    return bool(costs.mixed_s[row] <= step_limit_s(slo.tpot_s, request.work.num_new_tokens))


def step_limit_s(tpot_s: float, answer: float) -> float:
    """Longest steps in which a short answer that is handed over keeps this target, for answers of
    that mean length."""
    num_further = max(1.0, SHORT * answer - 1)
    return tpot_s / (1 + HANDOFF_STEPS / num_further)


def _keeps(slo: Slo, prices: Prices, candidate: Candidate) -> bool:
    """The prediction meets both targets."""
    _, first, destination, _ = candidate
    home = first if destination is None else destination
    in_time = slo.ttft_s is None or prices.costs.ttft_s[first] <= slo.ttft_s
    return bool(in_time and (slo.tpot_s is None or prices.tpot_s[home] <= slo.tpot_s))


def best_lone(
    table: FleetTable, request: PlacementRequest, prices: Prices, fits: Flags, avoided_s: Floats
) -> Candidate:
    """The cheapest worker that has room for the whole request."""
    total = prices.first_s + avoided_s
    # A prefill worker by choice, where the first token is the last.
    total = total + (table.decodes * 1e-3 if request.single_token else prices.destination_s)
    row = cheapest(total * prices.tie_break, fits)
    return float(total[row]), row, None, 0.0


def best_pair(
    table: FleetTable,
    request: PlacementRequest,
    hits: Hits,
    prices: Prices,
    fits: Flags,
    avoided_s: Floats,
) -> Candidate | None:
    """The cheapest among those that fit; None where no two of them can exchange blocks."""
    firsts, destinations = fits & table.prefills, fits & table.decodes
    first_s = (prices.first_s + avoided_s) * prices.tie_break
    destination_s = (prices.destination_s + avoided_s) * prices.tie_break
    best: Candidate | None = None
    # Few kinds of workers exist, and within one every pair can exchange.
    for kind, exchanges in enumerate(table.exchanges):
        rows = _best_rows(first_s, firsts & (table.kind == kind))
        others = _best_rows(destination_s, destinations & exchanges[table.kind]) if rows else []
        if not others:
            continue
        left = np.maximum(0.0, request.num_prompt_tokens - hits.device[others]).tolist()
        costs = destination_s[others].tolist()
        for row in rows:
            own_s, prefill_s = float(first_s[row]), float(prices.costs.prefill_s[row])
            token_bytes = float(table.token_bytes[row])
            for other, tokens, cost in zip(others, left, costs, strict=True):
                moved_s = exposed_s(tokens * token_bytes, prefill_s, *table.link(row, other))
                total = own_s + cost + moved_s
                if best is None or total < best[0]:
                    best = (total, row, other, moved_s)
    return best


def _best_rows(total: Floats, among: Flags) -> list[int]:
    (rows,) = among.nonzero()
    if len(rows) > NUM_BEST:
        rows = rows[np.argpartition(total[rows], NUM_BEST)[:NUM_BEST]]
    found: list[int] = rows.tolist()
    return found


def cheapest(total: Floats, among: Flags) -> int:
    """Row of the lowest total `among` the rows; there must be one."""
    return int(np.argmin(np.where(among, total, np.inf)))


def to_learn_from(table: FleetTable, fits: Flags) -> int | None:
    """A worker whose kind of device has done work of one role only, and that is free for the other:
    what that takes there is a guess from other devices until it serves some requests alone."""
    decodes = table.decodes & (table.num_prompts == 0)
    prefills = table.prefills & (table.num_prompts + table.num_decoding <= 1)
    (rows,) = (fits & table.guessed & (decodes | prefills)).nonzero()
    return int(rows[0]) if len(rows) else None


def avoided(table: FleetTable, request: PlacementRequest) -> Floats:
    """Seconds by which workers that have failed this request cost more."""
    seconds = np.zeros(len(table.refs))
    for ref in request.avoid:
        row = table.row(ref)
        if row is not None:
            seconds[row] = AVOID_S
    return seconds
