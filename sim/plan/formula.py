"""The capacity of pools by the role controller's own formula, for workers that do not exist yet.

The formula reads a table of workers; here each kind of worker has one row in such a table, with the
coefficients of its machine in place of those that a worker would report.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec
import numpy as np

from engine.schedule.step_times import StepTimes
from router.placing.fleet_table import FleetTable
from router.roles.capacity import WorkRates, capacity, work_rates
from sim.evaluate import worker_settings
from sim.plan.pool_choice import Needs, PoolChoice, PoolFamily, WorkerKind
from sim.plan.traffic_profile import TrafficProfile
from sim.plan.waiting import usable_share
from sim.worker import CONTENT, make_policy
from wire.identity import ProcessRef, Role, WorkerRef
from wire.messages import WorkerCard
from wire.reports import StepCosts

BUSY = 0.85
"""Share of their time from which prefill workers count as busy; below it, waits are the bound."""


class Bound(enum.Enum):
    """What limits how much pools serve."""

    PREFILL = "prefill compute"
    DECODE = "decode bandwidth"
    KV_MEMORY = "KV memory"
    LINK = "link"
    TTFT = "TTFT queueing"


class Side(msgspec.Struct, frozen=True):
    """Requests a second that one role's workers serve, and what limits them."""

    requests_per_s: float
    bound: Bound


class Estimate(msgspec.Struct, frozen=True):
    """What pools serve by the formula; `prefill` is None where nothing is split."""

    decode: Side
    prefill: Side | None = None

    @property
    def least(self) -> Side:
        sides = [self.decode] if self.prefill is None else [self.prefill, self.decode]
        return min(sides, key=lambda side: side.requests_per_s)


class Formula:
    """Estimates for one traffic and its targets."""

    def __init__(self, traffic: TrafficProfile, needs: Needs) -> None:
        self._traffic = traffic
        self._needs = needs
        self._workload = traffic.workload(needs.requests_per_s, needs.tpot_s)
        self._rates: dict[tuple[WorkerKind, int], WorkRates] = {}

    def estimate(self, choice: PoolChoice) -> Estimate:
        family = choice.family
        prefill = self.prefill(family, choice.num_prefill) if family.split else None
        return Estimate(self.decode(family, choice.num_decode), prefill)

    def decode(self, family: PoolFamily, count: int) -> Side:
        """What so many decode workers serve, or such that do both where nothing is split."""
        if family.prefill is None:
            return self._mixed(family, count)
        rates = self._rates_of(family.decode, family.chunk_tokens)
        return Side(count * float(rates.answers_per_s[0]), self._decode_bound(family.decode))

    def prefill(self, family: PoolFamily, count: int) -> Side:
        """What so many prefill workers of a split family compute and send."""
        kind = family.prefill
        assert kind is not None
        rates = self._rates_of(kind, family.chunk_tokens)
        computed = count * float(rates.prompts_per_s[0])
        service_s = count / computed
        usable = self._usable(count, service_s, service_s * self._long_ratio())
        sent = count * kind.machine.bytes_per_s / self._handoff_bytes(kind)
        if sent < computed * usable:
            return Side(sent, Bound.LINK)
        return Side(computed * usable, Bound.TTFT if usable < BUSY else Bound.PREFILL)

    def _mixed(self, family: PoolFamily, count: int) -> Side:
        """Workers that compute prompts beside answers. A prompt has only what answers leave of each
        step, so that it takes longer than alone."""
        rates = self._rates_of(family.decode, family.chunk_tokens)
        served = capacity(_repeated(rates, count), np.zeros(count, bool))
        prompts_per_s = count / self._prompt_s(family.decode)
        share = served / prompts_per_s
        service_s = self._prompt_s(family.decode) / max(share, 1e-3)
        usable = self._usable(count, service_s, service_s * self._long_ratio())
        if usable < BUSY:
            return Side(served * usable, Bound.TTFT)
        return Side(served, self._decode_bound(family.decode))

    def _usable(self, count: int, service_s: float, long_s: float) -> float:
        """Share of their time that prompts may take, for first tokens to be in time."""
        traffic, needs = self._traffic, self._needs
        scv = (traffic.arrival_scv + traffic.prompt_scv) / 2
        wait_s = needs.ttft_s - long_s
        if wait_s <= 0:
            return 0.0
        return usable_share(count, service_s, scv, wait_s, 1 - needs.attainment)

    def _long_ratio(self) -> float:
        """A long prompt's computation in those of a mean one."""
        return max(1.0, self._traffic.long_prompt_tokens / self._traffic.uncached_tokens)

    def _prompt_s(self, kind: WorkerKind) -> float:
        return kind.machine.prefill_s(max(1, int(self._traffic.uncached_tokens)), 1 << 30)

    def _handoff_bytes(self, kind: WorkerKind) -> float:
        """Bytes of one request's blocks; those that the destination has cached are not sent."""
        return self._traffic.uncached_tokens * kind.machine.layout.token_bytes

    def _decode_bound(self, kind: WorkerKind) -> Bound:
        """Whether the target or the pool limits the number of sequences."""
        machine, work = kind.machine, self._workload
        growth_s = machine.sequence_s + machine.context_token_s * work.context_tokens
        in_target = (self._needs.tpot_s - machine.step_s) / max(growth_s, 1e-12)
        in_pool = machine.pool_tokens / (work.context_tokens + work.answer_tokens / 2)
        return Bound.KV_MEMORY if in_pool < in_target else Bound.DECODE

    def _rates_of(self, kind: WorkerKind, chunk_tokens: int) -> WorkRates:
        key = kind, chunk_tokens
        if key not in self._rates:
            self._rates[key] = self._computed(kind, chunk_tokens)
        return self._rates[key]

    def _computed(self, kind: WorkerKind, chunk_tokens: int) -> WorkRates:
        table = FleetTable(num_rows=1)
        row = table.add(_card(kind, self._needs, chunk_tokens))
        table.calibrate(row, _costs(kind))
        return work_rates(table, [row], self._workload, self._needs.tpot_s)


def _card(kind: WorkerKind, needs: Needs, chunk_tokens: int) -> WorkerCard:
    """The card of a worker of this kind, as it would introduce itself."""
    settings, machine = worker_settings(needs.targets, chunk_tokens), kind.machine
    return WorkerCard(
        ref=WorkerRef(kind.label, 1),
        role=Role.DECODE,
        address="",
        model=CONTENT,
        model_hash=CONTENT,
        layout=machine.layout,
        content=CONTENT,
        num_blocks=machine.num_blocks,
        max_model_len=machine.max_model_len,
        policies=make_policy(Role.DECODE, settings, StepTimes()).traits_by_role,
        transport="memory",
        process=ProcessRef("planned", 1),
    )


def _costs(kind: WorkerKind) -> StepCosts:
    names: Sequence[str] = StepCosts.__struct_fields__
    return StepCosts(**{name: getattr(kind.machine, name) for name in names})


def _repeated(rates: WorkRates, count: int) -> WorkRates:
    return WorkRates(
        prompts_per_s=np.repeat(rates.prompts_per_s, count),
        answers_per_s=np.repeat(rates.answers_per_s, count),
        prompt_weight=np.repeat(rates.prompt_weight, count),
    )
