"""The plan in words: what binds each candidate, and whether splitting pays."""

from __future__ import annotations

from typing import Any

import msgspec

from sim.plan.formula import BUSY, Bound
from sim.plan.planner import Candidate, PlanFound
from sim.plan.pool_choice import PoolChoice
from sim.plan.trials import Trial
from sim.plan.worker_kinds import one_step_s
from wire.identity import Role

SECONDS_PER_HOUR = 3600


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate as it is shown; shares from 0 to 1."""

    split: bool
    prefill: str | None
    """Kind of the prefill workers, such as "h200 TP2"; None where nothing is split."""
    prefill_workers: int
    prefill_chunk_tokens: int | None
    decode: str
    """Kind of the decode workers; of all workers, where nothing is split."""
    decode_workers: int
    gpus: dict[str, int]
    """By device."""
    cost_per_hour: float | None
    cost_per_million_tokens: float | None
    """For tokens of answers at the rate that was asked for; None without prices."""
    gpu_hours_per_million_tokens: float
    passed: bool
    ttft_attainment: float
    tpot_attainment: float
    headroom: float
    """Share by which the load may grow before a target is missed, in the steps that were tried."""
    headroom_is_open: bool
    """The largest load that was tried was served, too."""
    binds: str
    """A word for what limits it, of `sim.plan.formula.Bound`."""
    why: str
    """The same in a sentence with numbers."""


def rows(found: PlanFound) -> list[Row]:
    return [_row(each, found) for each in found.candidates]


def as_json(found: PlanFound) -> dict[str, Any]:
    """What programs read: needs, candidates and the verdict."""
    return {
        **msgspec.structs.asdict(found.needs),
        "verdict": verdict(found),
        "candidates": [msgspec.structs.asdict(row) for row in rows(found)],
        "num_considered": found.num_considered,
        "num_trials": found.num_trials,
    }


def verdict(found: PlanFound) -> str:
    """Whether to split, and why, in one or two sentences."""
    best = found.best.trial.choice
    other = next((each for each in found.candidates if _split(each) != best.family.split), None)
    step = _step_words(best, found)
    if best.family.split:
        return f"Split: {step}. {_against(best, other)}".strip()
    return f"Do not split: {step}. {_against(best, other)}".strip()


def bound_of(candidate: Candidate) -> Bound:
    """What limits the candidate: the side that fails first, and the formula's reason for it."""
    estimate, failure = candidate.considered.estimate, candidate.first_failure
    if failure is None:
        return estimate.least.bound
    summary = failure.summary
    first_tokens_late = summary.ttft_attainment < summary.tpot_attainment or summary.num_refused > 0
    if estimate.prefill is None:
        return Bound.PREFILL if first_tokens_late else estimate.decode.bound
    if not first_tokens_late:
        return estimate.decode.bound
    if estimate.prefill.bound is Bound.LINK:
        return Bound.LINK
    busy = summary.busy_share.get(Role.PREFILL.value, 0.0)
    return Bound.PREFILL if busy >= BUSY else Bound.TTFT


def _row(candidate: Candidate, found: PlanFound) -> Row:
    choice, summary = candidate.trial.choice, candidate.trial.summary
    family, needs = choice.family, found.needs
    tokens_per_hour = needs.requests_per_s * found.traffic.answer_tokens * SECONDS_PER_HOUR
    millions = tokens_per_hour / 1e6
    price = choice.price_per_hour
    bound = bound_of(candidate)
    return Row(
        split=family.split,
        prefill=None if family.prefill is None else family.prefill.label,
        prefill_workers=choice.num_prefill,
        prefill_chunk_tokens=family.chunk_tokens if family.split else None,
        decode=family.decode.label,
        decode_workers=choice.num_decode,
        gpus=choice.gpus,
        cost_per_hour=None if price is None else round(price, 4),
        cost_per_million_tokens=None if price is None else round(price / millions, 4),
        gpu_hours_per_million_tokens=round(choice.num_gpus / millions, 4),
        passed=candidate.trial.passed,
        ttft_attainment=summary.ttft_attainment,
        tpot_attainment=summary.tpot_attainment,
        headroom=candidate.headroom,
        headroom_is_open=candidate.first_failure is None,
        binds=bound.value,
        why=_why(bound, candidate, found),
    )


def _why(bound: Bound, candidate: Candidate, found: PlanFound) -> str:
    trial = candidate.first_failure or candidate.trial
    words = _reason(bound, trial, found)
    if candidate.first_failure is None:
        return f"nothing yet at {1 + candidate.headroom:g} × the load; {bound.value} by the formula"
    return f"at {trial.requests_per_s:.3g} requests/s {words}"


def _reason(bound: Bound, trial: Trial, found: PlanFound) -> str:
    choice, tpot_ms = trial.choice, 1e3 * found.needs.tpot_s
    busy = trial.summary.busy_share.get(Role.PREFILL.value, 0.0)
    match bound:
        case Bound.PREFILL if not choice.family.split:
            return f"steps within {tpot_ms:g} ms leave too little for prompts beside answers"
        case Bound.PREFILL:
            return f"prefill workers are busy {busy:.0%} of the time"
        case Bound.TTFT:
            return f"prompts come in bursts and wait, though prefill workers are busy {busy:.0%}"
        case Bound.LINK:
            rate = choice.groups[0].kind.machine.bytes_per_s / 1e9
            return f"a prefill worker sends at most {rate:.3g} GB/s of KV cache"
        case Bound.KV_MEMORY:
            tokens = choice.family.decode.machine.pool_tokens
            return f"a cache of {tokens:,} tokens is full before steps take {tpot_ms:g} ms"
        case Bound.DECODE:
            return f"decode steps take the whole target of {tpot_ms:g} ms"


def _step_words(choice: PoolChoice, found: PlanFound) -> str:
    step_s = one_step_s(choice.family.decode.machine, found.traffic)
    ratio = found.needs.tpot_s / step_s
    meaning = (
        "so that reading weights takes much of each step, and prompts beside answers little"
        if choice.family.split
        else "which leaves room for prompts in the steps of answers"
    )
    return (
        f"the target of {1e3 * found.needs.tpot_s:g} ms a token is {ratio:.1f} × one step on "
        f"{choice.family.decode.label} ({1e3 * step_s:.1f} ms), {meaning}"
    )


def _against(best: PoolChoice, other: Candidate | None) -> str:
    """How the best of the other way compares; empty where none was looked at."""
    if other is None:
        return ""
    choice, summary = other.trial.choice, other.trial.summary
    if not other.trial.passed:
        return (
            "No pools that were tried the other way keep the targets: "
            f"{choice.label} have {summary.goodput:.1%} of requests in time."
        )
    unit = "GPUs" if best.price_per_hour is None else "cost"
    return f"Otherwise the cheapest is {choice.label}: {choice.cost / best.cost - 1:+.0%} {unit}."


def _split(candidate: Candidate) -> bool:
    return candidate.trial.choice.family.split
