"""The stage that binds: what requests bring against what the present assignment serves.

The same formula that chooses roles (router.roles.capacity) says how many requests a second each
stage serves, and what one more worker of either role would give. Memory and links are compared with
what workers report of them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import fields

import msgspec
import numpy as np

from router.config import Roles
from router.placing.fleet_table import Flags, FleetTable, Floats
from router.placing.placement_request import Split
from router.placing.workload import Workload
from router.roles.capacity import WorkRates, capacity, work_rates, work_sums
from wire.identity import Role

BINDS_FROM = 0.85
"""Share of a stage's capacity in use from which it is said to bind."""
NO_TARGET_S = float("inf")
"""Time per output token where no request has a target: the KV memory alone bounds answers."""


class Stage(enum.Enum):
    """A stage of serving that may be the bottleneck."""

    PREFILL = "prefill"
    DECODE = "decode"
    KV_MEMORY = "KV memory"
    LINKS = "links"


class Sharing(enum.Enum):
    """How prompts and answers share workers."""

    SHARED = "shared"  # every worker computes both: fixed roles, split auto or never
    BY_ROLE = "by_role"  # prompts first go to prefill workers: roles follow the load
    APART = "apart"  # prompts on prefill workers alone: split always


class StageLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One stage's load."""

    stage: Stage
    load: float
    """Share of its capacity in use; more than 1 when more comes than it serves."""
    serves_per_s: float | None = None
    """Requests a second that it could serve; None where that is not predicted."""


class Bottleneck(msgspec.Struct, frozen=True, kw_only=True):
    """Load and capacity of one model's workers, in requests a second."""

    binds: Stage | None
    """The stage that binds; None if none does."""
    requests_per_s: float
    """Requests that come."""
    serves_per_s: float
    """Requests that the present assignment serves within the targets."""
    tpot_s: float | None
    """The target; None if no request has one."""
    sharing: Sharing
    stages: tuple[StageLoad, ...]
    one_more: dict[Role, float]
    """Requests a second that would be served with one more worker of a role."""

    @property
    def load(self) -> float:
        """Share of the present assignment's capacity in use."""
        return self.requests_per_s / max(self.serves_per_s, 1e-9)


def sharing_of(roles: Roles, split: Split) -> Sharing:
    """How the settings of a model let prompts and answers share workers."""
    if split is Split.ALWAYS:
        return Sharing.APART
    return Sharing.BY_ROLE if roles is Roles.FOLLOW else Sharing.SHARED


def find_bottleneck(
    table: FleetTable, workload: Workload, sharing: Sharing, link_load: float
) -> Bottleneck | None:
    """The bottleneck of the ready workers; None when there are none, or none has told what its
    steps take. `link_load` is the load of the busiest worker's links."""
    rows = [int(row) for row in np.flatnonzero(table.ready)]
    if not rows or not table.all_calibrated:
        return None
    tpot_s = NO_TARGET_S if workload.tpot_s is None else workload.tpot_s
    rates = work_rates(table, rows, workload, tpot_s)
    prefills = prefill_flags(table, rows, sharing)
    comes = workload.requests_per_s
    serves = served(rates, prefills, sharing)
    stages = (
        *_compute_stages(rates, prefills, sharing, comes),
        StageLoad(stage=Stage.KV_MEMORY, load=_memory_load(table, rows, prefills)),
        StageLoad(stage=Stage.LINKS, load=link_load),
    )
    looser = work_rates(table, rows, workload, 1.1 * tpot_s)
    return Bottleneck(
        binds=_binding(rates, looser, prefills, comes / max(serves, 1e-9), stages),
        requests_per_s=comes,
        serves_per_s=serves,
        tpot_s=workload.tpot_s,
        sharing=sharing,
        stages=stages,
        one_more={role: _with_one_more(rates, prefills, sharing, role) for role in Role},
    )


def prefill_flags(table: FleetTable, rows: Sequence[int], sharing: Sharing) -> Flags:
    """Flags the rows whose workers compute prompts and no answers."""
    if sharing is Sharing.SHARED:
        return np.zeros(len(rows), bool)
    flags: Flags = table.prefills[list(rows)]
    return flags


def served(rates: WorkRates, prefills: Flags, sharing: Sharing) -> float:
    """Requests a second that an assignment serves within the targets."""
    if sharing is not Sharing.APART:
        return capacity(rates, prefills)
    prompts, answers, _ = work_sums(rates, prefills)
    return min(prompts, answers)


def extended(rates: WorkRates, prefills: Flags, role: Role) -> WorkRates:
    """The rates with one more worker, as good as the mean of those that have this role, or of
    all."""
    like = prefills if role is Role.PREFILL else ~prefills
    like = like if like.any() else np.ones(len(prefills), bool)

    def longer(column: Floats) -> Floats:
        return np.append(column, column[like].mean())

    return WorkRates(**{it.name: longer(getattr(rates, it.name)) for it in fields(WorkRates)})


def _with_one_more(rates: WorkRates, prefills: Flags, sharing: Sharing, role: Role) -> float:
    flag = role is Role.PREFILL and sharing is not Sharing.SHARED
    return served(extended(rates, prefills, role), np.append(prefills, flag), sharing)


def _compute_stages(
    rates: WorkRates, prefills: Flags, sharing: Sharing, comes: float
) -> tuple[StageLoad, StageLoad]:
    """Load of prefill and decode. Where workers are shared, each stage has the load that it alone
    brings, and both add up."""
    prompts, answers, weighted = work_sums(rates, prefills)
    weight = weighted / max(answers, 1e-9)
    if sharing is Sharing.SHARED:
        prompts, beside = answers / max(weight, 1e-9), 0.0
    else:
        beside = 0.0 if sharing is Sharing.APART else max(0.0, comes - prompts) * weight
    return (
        StageLoad(stage=Stage.PREFILL, load=comes / max(prompts, 1e-9), serves_per_s=prompts),
        StageLoad(
            stage=Stage.DECODE, load=(comes + beside) / max(answers, 1e-9), serves_per_s=answers
        ),
    )


def _memory_load(table: FleetTable, rows: Sequence[int], prefills: Flags) -> float:
    """Share of the KV memory in use on the workers that decode, or of all."""
    decoding = np.array(rows)[~prefills] if (~prefills).any() else np.array(rows)
    used = float((table.used_tokens + table.expected_tokens)[decoding].sum())
    return used / max(1.0, float(table.pool_tokens[decoding].sum()))


def _binding(
    rates: WorkRates,
    looser: WorkRates,
    prefills: Flags,
    load: float,
    stages: Sequence[StageLoad],
) -> Stage | None:
    """The most loaded stage, if it is loaded enough. `looser` are the rates with a target that is
    a little higher: where answers gain nothing by it, memory bounds them."""
    prefill, decode, *others = stages
    compute = prefill.stage if prefill.load > decode.load else decode.stage
    _, answers, _ = work_sums(rates, prefills)
    _, more, _ = work_sums(looser, prefills)
    if compute is Stage.DECODE and more <= answers * (1 + 1e-6):
        compute = Stage.KV_MEMORY
    loads = [(load, compute), *((it.load, it.stage) for it in others)]
    highest, stage = max(loads, key=lambda it: it[0])
    return stage if highest >= BINDS_FROM else None
