"""Which workers serve a request: the cheapest that keep it, and all that run, within targets.

Each way costs seconds: the request's own, and those that it takes from others. A prompt that is
computed beside decoding sequences delays each of them; a sequence more makes every step longer; a
prompt in a queue holds up those behind it. On top of that comes LOST_S for each request that would
miss its target, times how likely that is. Ways are pairs, a prefill and a decode worker, and lone
workers of either kind: splitting has to pay. Until both kinds have told what their steps take,
roles decide, and pairs come first.
"""

from __future__ import annotations

import enum

import msgspec
import numpy as np

from router.placing.cost_model import Hits, Work, exposed_s
from router.placing.fleet_table import Flags, FleetTable, Floats
from router.placing.prices import Prices, price
from wire.identity import WorkerRef

AVOID_S = 1e9
NUM_BEST = 4
"""So many of the best first workers, and destinations, are looked at as pairs."""
MODEL_ERROR = 0.4
"""Share of a cost that splitting has to gain. Predictions err by less in most cases, not in all."""
FETCH_SHARE = 0.5
"""Of the time that a copied prefix spares, so much may go into copying it."""


class Slo(msgspec.Struct, frozen=True):
    """Targets for a request; None where there is none."""

    ttft_s: float | None = None
    tpot_s: float | None = None


class Split(enum.Enum):
    """Whether prompts are computed on other workers than answers."""

    AUTO = "auto"  # where it pays
    ALWAYS = "always"  # wherever there is a pair
    NEVER = "never"


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a request needs of its workers."""

    key: str
    """Names the request: ties are broken by it, so that equal workers share the requests."""
    num_prompt_tokens: int
    num_tokens: int
    """Prompt and answer together, at most."""
    num_new_tokens: float = 128.0
    """The answer's length, as expected."""
    single_token: bool = False
    """One token is wanted: whoever prefills is done, nothing has to travel."""
    avoid: frozenset[WorkerRef] = frozenset()
    """Workers that have failed this request; taken only when there is no other choice."""
    slo: Slo = Slo()
    split: Split = Split.AUTO

    @property
    def work(self) -> Work:
        num_new = 1.0 if self.single_token else max(1.0, self.num_new_tokens)
        return Work(num_prompt_tokens=self.num_prompt_tokens, num_new_tokens=num_new)


class Placement(msgspec.Struct, frozen=True):
    """`first` computes the prompt; without a destination it also writes the answer."""

    first: WorkerRef
    destination: WorkerRef | None
    ttft_s: float = 0.0
    """As predicted, from now on; like the next."""
    tpot_s: float = 0.0
    prompt_s: float = 0.0
    """Computing the prompt's uncached part: what others lose by it."""
    queue_s: float = 0.0
    """What prompts wait where this one would."""
    num_queued: float = 0.0
    """Prompts there that are not computed yet."""
    queued_steps: float = 0.0
    """For how many steps they are enough."""
    prefill_s: float = 0.0
    """The prompt, the steps' own time and what runs beside it: what a place in line is worth."""
    relief_s: float = 0.0
    """Until enough of what decodes there has ended for the target of its tokens; 0 where that is
    kept, and where it would not be even alone."""


class RefusalReason(enum.Enum):
    NO_WORKERS = "no workers"
    TOO_LONG = "too long for every worker"


class Refusal(msgspec.Struct, frozen=True):
    reason: RefusalReason
    detail: str


def place(table: FleetTable, need: Need, hits: Hits, now: float) -> Placement | Refusal:
    """The best pair or lone worker; see above."""
    fits = table.ready & (table.capacity_tokens >= need.num_tokens)
    if not fits.any():
        return _refusal(table, need)
    prices = _price(table, need, hits, now)
    avoided_s = _avoided(table, need)
    known = bool(table.calibrated[fits].all())
    pair = None
    if not need.single_token and (need.split is not Split.NEVER or not known):
        pair = _best_pair(table, need, hits, prices, fits, avoided_s)
    if pair is None or (need.split is not Split.ALWAYS and known):
        lone = _best_lone(table, need, prices, fits, avoided_s)
        if pair is None or not _pays(need, prices, pair, lone):
            pair = lone
    _, first, destination, moved_s = pair
    return _placement(table, need, prices, fits, (first, destination), moved_s)


def another_destination(
    table: FleetTable, need: Need, hits: Hits, first: WorkerRef, now: float
) -> WorkerRef | None:
    """Who else could take a sequence that `first` has; nobody of `need.avoid`."""
    row = table.row(first)
    if row is None or not table.ready[row]:
        return None
    fits = table.ready & (table.capacity_tokens >= need.num_tokens) & table.decodes
    fits &= table.can_exchange(row) & (_avoided(table, need) == 0)
    fits[row] = False
    if not fits.any():
        return None
    prices = _price(table, need, hits, now)
    return table.refs[_cheapest(prices.destination_s * prices.draw, fits)]


def prefix_holder(
    table: FleetTable, hits: Hits, first: WorkerRef, min_tokens: int
) -> WorkerRef | None:
    """Who can send `first` at least `min_tokens` more of the prompt, in less time than it spares.

    This is also how a prefix that many want comes to more than one worker.
    """
    row = table.row(first)
    if row is None:
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


def _price(table: FleetTable, need: Need, hits: Hits, now: float) -> Prices:
    targets = (need.slo.ttft_s, need.slo.tpot_s)
    return price(table, need.work, targets, hits, need.key, now)


_Way = tuple[float, int, int | None, float]
"""Its cost, the row of the first worker, that of the destination, and what the move takes."""


def _pays(need: Need, prices: Prices, pair: _Way, lone: _Way) -> bool:
    """Splitting gains more than predictions err. With targets, it keeps one that nobody alone can.

    Where neither way keeps them, both would be late, and only one of them takes two workers.
    """
    has_targets = need.slo != Slo()
    if has_targets and (_keeps(need.slo, prices, lone) or not _keeps(need.slo, prices, pair)):
        return False
    return pair[0] < (1 - MODEL_ERROR) * lone[0]


def _keeps(slo: Slo, prices: Prices, way: _Way) -> bool:
    """Both targets, by the prediction."""
    _, first, destination, _ = way
    home = first if destination is None else destination
    in_time = slo.ttft_s is None or prices.costs.ttft_s[first] <= slo.ttft_s
    return bool(in_time and (slo.tpot_s is None or prices.tpot_s[home] <= slo.tpot_s))


def _best_lone(
    table: FleetTable, need: Need, prices: Prices, fits: Flags, avoided_s: Floats
) -> _Way:
    total = prices.first_s + avoided_s
    # A prefill worker by choice, where the first token is the last.
    total = total + (table.decodes * 1e-3 if need.single_token else prices.destination_s)
    row = _cheapest(total * prices.draw, fits)
    return float(total[row]), row, None, 0.0


def _best_pair(
    table: FleetTable,
    need: Need,
    hits: Hits,
    prices: Prices,
    fits: Flags,
    avoided_s: Floats,
) -> _Way | None:
    firsts, destinations = fits & table.prefills, fits & table.decodes
    first_s = (prices.first_s + avoided_s) * prices.draw
    destination_s = (prices.destination_s + avoided_s) * prices.draw
    best: _Way | None = None
    # Few kinds of workers exist, and within one every pair can exchange.
    for kind, exchanges in enumerate(table.exchanges):
        rows = _best_rows(first_s, firsts & (table.kind == kind))
        others = _best_rows(destination_s, destinations & exchanges[table.kind]) if rows else []
        if not others:
            continue
        left = np.maximum(0.0, need.num_prompt_tokens - hits.device[others]).tolist()
        costs = destination_s[others].tolist()
        for row in rows:
            token_bytes, prefill_s = table.token_bytes[row], float(prices.costs.prefill_s[row])
            for other, tokens, cost in zip(others, left, costs, strict=True):
                way = table.link(row, other)
                moved_s = exposed_s(tokens * float(token_bytes), prefill_s, *way)
                total = float(first_s[row]) + cost + moved_s
                if best is None or total < best[0]:
                    best = (total, row, other, moved_s)
    return best


def _placement(
    table: FleetTable,
    need: Need,
    prices: Prices,
    fits: Flags,
    rows: tuple[int, int | None],
    moved_s: float,
) -> Placement:
    first, destination = rows
    home = first if destination is None else destination
    answer = need.work.num_new_tokens
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
        relief_s=_relief_s(table, need.slo.tpot_s, prices, home),
    )


def _relief_s(table: FleetTable, target_s: float | None, prices: Prices, home: int) -> float:
    """Sequences there end one after the other, the last after a lifetime."""
    tpot_s = float(prices.tpot_s[home])
    if target_s is None or tpot_s <= target_s or not prices.costs.num_decoding[home]:
        return 0.0
    if table.step_s[home] + prices.costs.growth_s[home] > target_s:
        return 0.0
    return table.lifetime_s * (1.0 - target_s / tpot_s)


def _best_rows(total: Floats, among: Flags) -> list[int]:
    rows = np.flatnonzero(among)
    if len(rows) > NUM_BEST:
        rows = rows[np.argpartition(total[rows], NUM_BEST)[:NUM_BEST]]
    found: list[int] = rows.tolist()
    return found


def _cheapest(total: Floats, among: Flags) -> int:
    return int(np.argmin(np.where(among, total, np.inf)))


def _avoided(table: FleetTable, need: Need) -> Floats:
    avoided = np.zeros(len(table.refs))
    for ref in need.avoid:
        row = table.row(ref)
        if row is not None:
            avoided[row] = AVOID_S
    return avoided


def _ref(table: FleetTable, row: int) -> WorkerRef:
    ref = table.refs[row]
    assert ref is not None, "a row of nobody is never ready"
    return ref


def _refusal(table: FleetTable, need: Need) -> Refusal:
    if not table.ready.any():
        return Refusal(RefusalReason.NO_WORKERS, "no worker is ready")
    longest = int(table.capacity_tokens[table.ready].max())
    return Refusal(
        RefusalReason.TOO_LONG,
        f"{need.num_tokens} tokens are wanted, the largest worker holds {longest}",
    )
