"""Placement's view of the workers: one row each, in arrays that are updated in place."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import numpy as np
import numpy.typing as npt

from kv_transfer.layout import head_routes
from router.placing.worker_load import WorkerLoad
from wire.identity import Role, WorkerRef
from wire.layout import KvLayout
from wire.messages import WorkerCard
from wire.policy_traits import PolicyTraits
from wire.reports import LinkReport, StepCosts

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

UNKNOWN_COSTS = StepCosts(
    step_s=5e-3,
    sequence_s=3e-5,
    context_token_s=2e-8,
    prompt_token_s=5e-5,
    prompt_pair_s=2e-9,
)
"""Until a worker of its kind has told its own: a small model on a GPU, or a tiny one on a CPU."""
UNKNOWN_LINK = (1e-3, 5e9)
"""Latency in seconds and bytes per second of a way that nobody has measured yet."""
HOST_BYTES_PER_S = 10e9
"""How fast blocks come back from a host tier."""

_EMPTY = {
    "block_size": 1,
    "prefill_chunk_tokens": 1,
    "chunk_tokens": 1,
    "mixed_chunk_tokens": 1,
    "min_chunk_tokens": 1,
    "overtaking_ratio": 1,
}

_Kind = tuple[str, KvLayout, str]


class FleetTable:
    """All columns are arrays over rows; rows of nobody are not `ready`. Costs are in seconds.

    A row is reused when its worker is gone. Times are the caller's clock.
    """

    def __init__(self, num_rows: int = 16) -> None:
        self.ready: Flags = np.zeros(num_rows, bool)
        self.prefills: Flags = np.zeros(num_rows, bool)
        self.decodes: Flags = np.zeros(num_rows, bool)
        self.calibrated: Flags = np.zeros(num_rows, bool)
        self.capacity_tokens: Floats = np.zeros(num_rows)
        self.pool_tokens: Floats = np.zeros(num_rows)
        self.token_bytes: Floats = np.zeros(num_rows)
        self.block_size: Floats = np.ones(num_rows)
        self.kind: npt.NDArray[np.int64] = np.zeros(num_rows, np.int64)
        self.device: npt.NDArray[np.int64] = np.zeros(num_rows, np.int64)
        """Index of the kind of device."""
        self.guessed: Flags = np.zeros(num_rows, bool)
        """Costs that no worker of this kind of device has told, but others have."""
        self.step_s: Floats = np.zeros(num_rows)
        self.sequence_s: Floats = np.zeros(num_rows)
        self.context_token_s: Floats = np.zeros(num_rows)
        self.prompt_token_s: Floats = np.zeros(num_rows)
        self.prompt_pair_s: Floats = np.zeros(num_rows)
        self.prefill_chunk_tokens: Floats = np.ones(num_rows)
        """Chunk of the worker when it is a prefill worker."""
        self.chunk_tokens: Floats = np.ones(num_rows)
        """This and the next three: see wire.policy_traits.PolicyTraits."""
        self.mixed_chunk_tokens: Floats = np.ones(num_rows)
        self.min_chunk_tokens: Floats = np.ones(num_rows)
        self.overtaking_ratio: Floats = np.ones(num_rows)
        self.step_target_s: Floats = np.zeros(num_rows)
        """Target duration of steps with prompts beside decoding sequences; 0 without a limit."""
        self.queued_tokens: Floats = np.zeros(num_rows)
        self.queued_pairs: Floats = np.zeros(num_rows)
        self.num_prompts: Floats = np.zeros(num_rows)
        self.num_decoding: Floats = np.zeros(num_rows)
        self.context_tokens: Floats = np.zeros(num_rows)
        self.used_tokens: Floats = np.zeros(num_rows)
        self.num_expected: Floats = np.zeros(num_rows)
        self.expected_context: Floats = np.zeros(num_rows)
        self.expected_tokens: Floats = np.zeros(num_rows)
        self.interrupted_s: Floats = np.zeros(num_rows)
        self.interrupted_at: Floats = np.zeros(num_rows)
        self.tie_break_salt: npt.NDArray[np.uint64] = np.zeros(num_rows, np.uint64)
        self.refs: list[WorkerRef | None] = [None] * num_rows
        self.block_sizes: Counter[int] = Counter()
        """How many workers have blocks of each size."""
        self.lifetime_s = 5.0
        """Mean lifetime of a decoding sequence, over which interruptions are averaged."""
        self.usual_ttft_s: float | None = None
        """Usual TTFT target of requests."""
        self.requests_per_s = 0.0
        """That come to one worker."""
        self.num_ready = 0
        self.longest: int | None = None
        """Most tokens that any ready worker holds of one sequence; None when none is ready."""
        self.all_calibrated = True
        """Every ready worker, or another of its kind, has told what its steps take."""
        self.any_guessed = False
        """Costs of some ready worker are guessed."""
        self._rows: dict[WorkerRef, int] = {}
        self._kinds: list[_Kind] = []
        self._devices: list[str] = []
        self._costs: dict[int, dict[int, StepCosts]] = {}
        self._lent_costs: dict[tuple[int, int, str], tuple[float, bool, bool]] = {}
        """By kind, device and cost: see `_mean_of`; empty when one of them has changed since."""
        self._roles: dict[int, Role] = {}
        self._policies: dict[int, dict[Role, PolicyTraits]] = {}
        self._links: dict[tuple[WorkerRef, WorkerRef], tuple[float, float]] = {}
        self.exchanges: Flags = np.zeros((0, 0), bool)
        """Over kinds: whether KV blocks of one can travel to the other, converted if need be."""

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, card: WorkerCard) -> int:
        """Give a worker a row; it is not ready yet."""
        row = next((row for row, ref in enumerate(self.refs) if ref is None), len(self.refs))
        if row == len(self.refs):
            self._grow()
        self.refs[row], self._rows[card.ref] = card.ref, row
        layout = card.layout
        self.block_sizes[layout.block_size] += 1
        self.pool_tokens[row] = card.num_blocks * layout.block_size
        self.capacity_tokens[row] = min(card.max_model_len, self.pool_tokens[row])
        self.token_bytes[row] = layout.token_bytes
        self.block_size[row] = layout.block_size
        self._policies[row] = card.policies
        self.prefill_chunk_tokens[row] = card.policies[Role.PREFILL].chunk_tokens
        self.set_role(row, card.role)
        self.kind[row] = self._kind_of(card)
        self.device[row] = self._device_of(card)
        drawn = hashlib.blake2b(str(card.ref).encode(), digest_size=8).digest()
        self.tie_break_salt[row] = int.from_bytes(drawn, "big") | 1
        self._fill(row)
        return row

    def set_role(self, row: int, role: Role) -> None:
        """The role in which the worker runs now."""
        if self._roles.get(row) is role:
            return
        self._roles[row] = role
        self.prefills[row], self.decodes[row] = role is Role.PREFILL, role is Role.DECODE
        policy = self._policies[row][role]
        for name in PolicyTraits.__struct_fields__:
            getattr(self, name)[row] = getattr(policy, name)

    def set_ready(self, row: int, ready: bool) -> None:
        self.ready[row] = ready
        self._sum_up_ready()

    def row(self, ref: WorkerRef) -> int | None:
        return self._rows.get(ref)

    def remove(self, ref: WorkerRef) -> None:
        row = self._rows.pop(ref, None)
        if row is None:
            return
        self._costs.get(int(self.kind[row]), {}).pop(row, None)
        self._lent_costs.clear()
        del self._roles[row]
        self.block_sizes -= Counter({int(self.block_size[row]): 1})
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray) and name != "exchanges":
                column[row] = 0
        for name, value in _EMPTY.items():
            getattr(self, name)[row] = value
        self.refs[row] = None
        for pair in [pair for pair in self._links if ref in pair]:
            del self._links[pair]
        self._sum_up_ready()

    def set_load(self, row: int, load: WorkerLoad) -> None:
        self.queued_tokens[row] = load.queued_tokens
        self.queued_pairs[row] = load.queued_pairs
        self.num_prompts[row] = load.num_prompts
        self.num_decoding[row] = load.num_decoding
        self.context_tokens[row] = load.context_tokens
        self.used_tokens[row] = load.used_tokens
        self.num_expected[row] = load.num_expected
        self.expected_context[row] = load.expected_context
        self.expected_tokens[row] = load.expected_tokens

    def calibrate(self, row: int, costs: StepCosts) -> None:
        """By what the worker itself has told; others of its kind have the mean of it meanwhile."""
        kind = int(self.kind[row])
        told = self._costs.setdefault(kind, {})
        former = told.get(row)
        before = set() if former is None else _known(former)
        if costs != former:
            told[row] = costs
            self._lent_costs.clear()
        elif len(before) == len(StepCosts.__struct_fields__):
            return
        # The more have told a cost already, the less one more changes its mean.
        news = _known(costs) - before
        if not news:
            self._fill(row)
            return
        near = [each for other, each in told.items() if self.device[other] == self.device[row]]
        num_told = [sum(getattr(c, name) is not None for c in near) for name in news]
        if any(each & (each - 1) == 0 for each in num_told):
            for other in np.flatnonzero(self.kind == kind):
                self._fill(int(other))
        else:
            self._fill(row)
        self._sum_up_ready()

    def interrupt(self, row: int, seconds: float, now: float) -> None:
        """Sequences that decode there lose so much time to a prompt."""
        age = max(0.0, now - self.interrupted_at[row])
        left = self.interrupted_s[row] * math.exp(-age / self.lifetime_s)
        self.interrupted_s[row], self.interrupted_at[row] = left + seconds, now

    def interruptions(self, now: float) -> Floats:
        """Seconds that a sequence which has decoded for a lifetime has lost to prompts, by row."""
        age = np.maximum(0.0, now - self.interrupted_at)
        return self.interrupted_s * np.exp(-age / self.lifetime_s)

    def set_link(self, source: WorkerRef, link: LinkReport) -> None:
        self._links[source, link.destination] = (link.latency_s, max(1.0, link.bytes_per_s))

    def link(self, source: int, destination: int) -> tuple[float, float]:
        """Latency in seconds, bytes per second."""
        ends = self.refs[source], self.refs[destination]
        return self._links.get(ends, UNKNOWN_LINK)  # type: ignore[arg-type]

    def can_exchange(self, row: int) -> Flags:
        """With which rows this one can exchange KV blocks."""
        row_of_kinds: Flags = self.exchanges[self.kind[row]]
        return row_of_kinds[self.kind]

    def _sum_up_ready(self) -> None:
        """Asked for by every request, and changed by few events."""
        self.num_ready = int(np.count_nonzero(self.ready))
        self.longest = int(self.capacity_tokens[self.ready].max()) if self.num_ready else None
        self.all_calibrated = bool(self.calibrated[self.ready].all())
        self.any_guessed = bool(self.guessed[self.ready].any())

    def _kind_of(self, card: WorkerCard) -> int:
        kind = (card.content, card.layout, card.transport)
        if kind not in self._kinds:
            self._kinds.append(kind)
            self.exchanges = np.array([[_exchange(a, b) for a in self._kinds] for b in self._kinds])
        return self._kinds.index(kind)

    def _device_of(self, card: WorkerCard) -> int:
        if card.device not in self._devices:
            self._devices.append(card.device)
        return self._devices.index(card.device)

    def _fill(self, row: int) -> None:
        """A worker's own costs, or else the mean of its kind of device, or of its kind, or else
        defaults."""
        if self.refs[row] is None:
            return
        told = self._costs.get(int(self.kind[row]), {})
        own = told.get(row)
        self.calibrated[row], self.guessed[row] = True, False
        for name in StepCosts.__struct_fields__:
            cost = None if own is None else getattr(own, name)
            if cost is None:
                cost = self._lent(row, name, told)
            getattr(self, name)[row] = max(0.0, cost)

    def _lent(self, row: int, name: str, told: dict[int, StepCosts]) -> float:
        """What workers of the same kind of device have told on average, or all of the kind."""
        device = int(self.device[row])
        key = (int(self.kind[row]), device, name)
        found = self._lent_costs.get(key)
        if found is None:
            found = self._lent_costs[key] = self._mean_of(told, device, name)
        cost, is_known, is_near = found
        self.calibrated[row] &= is_known
        self.guessed[row] |= is_known and not is_near
        return cost

    def _mean_of(
        self, told: dict[int, StepCosts], device: int, name: str
    ) -> tuple[float, bool, bool]:
        """The mean of a cost, whether any worker has told it, and whether one with such a device
        has."""
        known = {each: getattr(costs, name) for each, costs in told.items()}
        known = {each: cost for each, cost in known.items() if cost is not None}
        near = [cost for each, cost in known.items() if self.device[each] == device]
        values = near or list(known.values()) or [getattr(UNKNOWN_COSTS, name)]
        return float(sum(values) / len(values)), bool(known), bool(near)

    def _grow(self) -> None:
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray) and name != "exchanges":
                more = np.full_like(column, _EMPTY.get(name, 0))
                setattr(self, name, np.concatenate([column, more]))
        self.refs += [None] * len(self.refs)


def _known(costs: StepCosts) -> set[str]:
    """Names of the costs that are told."""
    return {name for name in StepCosts.__struct_fields__ if getattr(costs, name) is not None}


def _exchange(one: _Kind, other: _Kind) -> bool:
    same = (one[0], one[2]) == (other[0], other[2])
    return same and head_routes.can_exchange(one[1], other[1])
