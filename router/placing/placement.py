"""Chooses the workers of a request: the cheapest candidate, counting all requests' targets.

Candidates are pairs, a prefill and a decode worker, and lone workers of either kind: splitting has
to pay. Each costs seconds: the request's own, and those that it takes from others. A prompt that is
computed beside decoding sequences delays each of them; a sequence more makes every step longer; a
prompt in a queue holds up those behind it. Each request that would miss its target adds SLO_MISS_S,
times the probability of that. Until both kinds of worker have reported what their steps cost, roles
decide, and pairs come first.
"""

from __future__ import annotations

import numpy as np

from router.placing.candidates import (
    Candidate,
    avoided,
    best_lone,
    best_pair,
    cheapest,
    pays,
    spills,
    step_limit_s,
    to_learn_from,
)
from router.placing.cost_model import Hits
from router.placing.fleet_table import Flags, FleetTable
from router.placing.placement_request import (
    Placement,
    PlacementRequest,
    Refusal,
    RefusalReason,
    Split,
)
from router.placing.prices import Prices, price
from wire.identity import WorkerRef

TPOT_SHARE = 0.97
"""Share of a target for the time per output token that predictions may use where roles follow the
load, and decode workers are filled up to it: loads fluctuate."""
FETCH_SHARE = 0.5
"""Maximum time for copying a prefix, as a fraction of the time it saves."""


def place(
    table: FleetTable, request: PlacementRequest, hits: Hits, now: float
) -> Placement | Refusal:
    """The best pair or lone worker; see above."""
    if table.longest is None or table.longest < request.num_tokens:
        return _refusal(table, request)
    fits = table.ready & (table.capacity_tokens >= request.num_tokens)
    prices = _price(table, request, hits, now)
    known = table.all_calibrated or bool((table.calibrated | ~fits).all())
    if known and table.any_guessed and request.split is Split.AUTO:
        row = to_learn_from(table, fits)
        if row is not None:
            return _placement(table, request, prices, (row, None), 0.0)
    _, first, destination, moved_s = _best(table, request, hits, prices, fits, known)
    return _placement(table, request, prices, (first, destination), moved_s)


def _best(
    table: FleetTable,
    request: PlacementRequest,
    hits: Hits,
    prices: Prices,
    fits: Flags,
    known: bool,
) -> Candidate:
    """The best candidate; `known` tells whether all workers that fit have reported their costs."""
    avoided_s, pair = avoided(table, request), None
    if not request.single_token and (request.split is not Split.NEVER or not known):
        pair = best_pair(table, request, hits, prices, fits, avoided_s)
    if pair is not None and (request.split is Split.ALWAYS or not known):
        return pair
    homes = _homes(table, request, fits)
    lone = best_lone(table, request, prices, homes, avoided_s)
    if pair is None or _prefers_lone(table, request, hits, prices, pair, lone):
        return lone
    if not _by_roles(request) or lone[1] != pair[2] or np.count_nonzero(homes) == 1:
        return pair
    # Another decode worker may take the prompt, and leave this one to what is handed over.
    others = homes.copy()
    others[lone[1]] = False
    lone = best_lone(table, request, prices, others, avoided_s)
    return lone if _prefers_lone(table, request, hits, prices, pair, lone) else pair


def another_destination(
    table: FleetTable, request: PlacementRequest, hits: Hits, first: WorkerRef, now: float
) -> WorkerRef | None:
    """Another destination for a sequence that `first` has, none of `request.avoid`."""
    row = table.row(first)
    if row is None or not table.ready[row]:
        return None
    fits = table.ready & (table.capacity_tokens >= request.num_tokens) & table.decodes
    fits &= table.can_exchange(row) & (avoided(table, request) == 0)
    fits[row] = False
    if not fits.any():
        return None
    prices = _price(table, request, hits, now)
    return table.refs[cheapest(prices.destination_s * prices.tie_break, fits)]


def prefix_holder(
    table: FleetTable, hits: Hits, first: WorkerRef, min_tokens: int
) -> WorkerRef | None:
    """A worker that can send `first` at least `min_tokens` more of the prompt, in less time than
    that saves.

    This is also how a prefix that many want comes to more than one worker.
    """
    row = table.row(first)
    if row is None or hits.device.max() < min_tokens:
        return None
    more = hits.device - hits.either[row]
    able = table.ready & table.can_exchange(row) & (more >= min_tokens)
    able[row] = False
    if not able.any():
        return None
    holder = int(np.argmax(np.where(able, more - 1e-3 * table.num_decoding, -1.0)))
    latency_s, bytes_per_s = table.link(holder, row)
    copied_s = latency_s + more[holder] * table.token_bytes[row] / bytes_per_s
    seen = hits.either[row] + more[holder] / 2
    spared_s = more[holder] * (table.prompt_token_s[row] + table.prompt_pair_s[row] * seen)
    if table.calibrated[row] and copied_s > FETCH_SHARE * spared_s:
        return None
    return table.refs[holder]


def _homes(table: FleetTable, request: PlacementRequest, fits: Flags) -> Flags:
    """Workers that may serve the request alone. Where roles follow the load, a prefill worker
    decodes only what no decode worker can take."""
    if not _by_roles(request) or request.single_token:
        return fits
    decodes = fits & table.decodes
    return decodes if decodes.any() else fits


def _prefers_lone(
    table: FleetTable,
    request: PlacementRequest,
    hits: Hits,
    prices: Prices,
    pair: Candidate,
    lone: Candidate,
) -> bool:
    if _by_roles(request):
        return spills(table, request, hits, prices, pair, lone)
    return not pays(request, prices, pair, lone)


def _by_roles(request: PlacementRequest) -> bool:
    """Whether the workers' roles decide: they follow the load of requests that have such
    targets."""
    auto = request.split is Split.AUTO
    return auto and request.roles_follow and request.slo.tpot_s is not None


def _tpot_limit_s(request: PlacementRequest, handed: bool) -> float | None:
    """The time per output token up to which a worker has room for the request."""
    target_s = request.slo.tpot_s
    if target_s is None or not _by_roles(request):
        return target_s
    return TPOT_SHARE * (
        step_limit_s(target_s, request.work.num_new_tokens) if handed else target_s
    )


def _price(table: FleetTable, request: PlacementRequest, hits: Hits, now: float) -> Prices:
    targets = (request.slo.ttft_s, request.slo.tpot_s)
    return price(table, request.work, targets, hits, request.key, now)


def _placement(
    table: FleetTable,
    request: PlacementRequest,
    prices: Prices,
    rows: tuple[int, int | None],
    moved_s: float,
) -> Placement:
    first, destination = rows
    home = first if destination is None else destination
    handed = destination is not None
    answer = request.work.num_new_tokens
    return Placement(
        first=_ref(table, first),
        destination=None if destination is None else _ref(table, destination),
        ttft_s=float(prices.costs.ttft_s[first]),
        tpot_s=float(prices.tpot_s[home]) + moved_s / answer if answer > 1 else 0.0,
        prompt_s=float(prices.costs.prompt_s[first]),
        prefill_s=float(prices.costs.prefill_s[first]),
        queue_s=float(prices.costs.queue_s[first]),
        num_queued=float(table.num_prompts[first]),
        queued_steps=float(prices.costs.queued_steps[first]),
        relief_s=_relief_s(table, _tpot_limit_s(request, handed), prices, home),
    )


def _relief_s(table: FleetTable, target_s: float | None, prices: Prices, home: int) -> float:
    """Seconds until enough sequences have ended for the worker to meet the TPOT target; 0 where it
    meets it now, or never will. Sequences end one by one, the last after a lifetime."""
    tpot_s = float(prices.tpot_s[home])
    if target_s is None or tpot_s <= target_s or not prices.costs.num_decoding[home]:
        return 0.0
    if table.step_s[home] + prices.costs.growth_s[home] > target_s:
        return 0.0
    return table.lifetime_s * (1.0 - target_s / tpot_s)


def _ref(table: FleetTable, row: int) -> WorkerRef:
    ref = table.refs[row]
    assert ref is not None, "a row of nobody is never ready"
    return ref


def _refusal(table: FleetTable, request: PlacementRequest) -> Refusal:
    if not table.num_ready:
        return Refusal(RefusalReason.NO_WORKERS, "no worker is ready")
    return Refusal(
        RefusalReason.TOO_LONG,
        f"{request.num_tokens} tokens are wanted, the largest worker holds {table.longest}",
    )
