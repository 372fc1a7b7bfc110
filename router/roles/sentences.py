"""A model's status in sentences: the stage that binds, targets met, queues, and what would help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from router.roles.attainment import Attainment, TargetCount
from router.roles.bottleneck import Bottleneck, Sharing, Stage
from router.roles.model_status import ModelStatus, QueueView
from wire.identity import Role

LEAST_GAIN = 0.02
"""Share of more requests from which one more worker is said to help."""
MISSED_FROM = 0.9
"""Attainment below which a target is said to be missed."""


def sentences(status: ModelStatus) -> tuple[str, ...]:
    """What an operator wants to know first comes first."""
    return tuple(_sentences(status))


def _sentences(status: ModelStatus) -> Iterator[str]:
    if not any(worker.state == "ready" for worker in status.workers):
        yield "No worker is ready: requests of this model are refused."
        return
    found = status.bottleneck
    if found is None:
        nothing = status.traffic is None
        yield (
            "No request has come yet, so that nothing can be said about load."
            if nothing
            else "Workers have not told yet what their steps take: a few requests make it known."
        )
    else:
        yield _binding(found)
        yield from _doubt(found, status.attainment)
    yield _targets(status.attainment)
    yield from _queues(status.queues)
    if found is not None:
        yield _one_more(found)
    yield from _wanted(status)
    if status.controller:
        last = status.controller[0]
        yield f"{_ago(last.seconds_ago)} {last.text}."


def _binding(found: Bottleneck) -> str:
    name = "Nothing" if found.binds is None else _NAMES[found.binds]
    within = "" if found.tpot_s is None else f" within a TPOT of {_seconds(found.tpot_s)}"
    return (
        f"{name} binds: {_rate(found.requests_per_s)} requests/s come, and the present assignment "
        f"serves {_rate(found.serves_per_s)}{within} ({_percent(found.load)} in use)."
    )


_NAMES = {
    Stage.PREFILL: "Prefill",
    Stage.DECODE: "Decode",
    Stage.KV_MEMORY: "KV memory",
    Stage.LINKS: "The network between workers",
}


def _doubt(found: Bottleneck, attainment: Attainment) -> Iterator[str]:
    """Prediction and measurement that do not agree are said to."""
    missed = [
        name
        for name, count in (("TTFT", attainment.ttft), ("TPOT", attainment.tpot))
        if count.share is not None and count.share < MISSED_FROM
    ]
    if found.binds is None and missed:
        yield (
            f"By prediction there is room, yet {' and '.join(missed)} targets are missed: bursts, "
            "or steps that take longer than workers have measured."
        )


def _targets(attainment: Attainment) -> str:
    over = f"in the last {attainment.window_s:.0f} s"
    if not attainment.num_ended:
        return f"No request has ended {over}."
    counted = ((attainment.ttft, "TTFT"), (attainment.tpot, "TPOT"))
    said = [
        f"{_percent(count.share or 0.0, 1)} met their {name} target"
        for count, name in counted
        if count.num
    ]
    ended = f"{_number(attainment.num_ended, 'request')} ended {over}"
    refused = f", {attainment.num_refused} of them refused" if attainment.num_refused else ""
    if not said:
        return f"{ended}{refused}; none had a target."
    return f"{ended}{refused}: {', '.join(said)}{_without(attainment.ttft, attainment.tpot)}."


def _without(ttft: TargetCount, tpot: TargetCount) -> str:
    names = [name for count, name in ((ttft, "TTFT"), (tpot, "TPOT")) if not count.num]
    return f"; none had a {names[0]} target" if names else ""


def _queues(queues: QueueView) -> Iterator[str]:
    waits = []
    if queues.num_in_router:
        verb = "waits" if queues.num_in_router == 1 else "wait"
        waits.append(f"{_number(queues.num_in_router, 'request')} {verb} in the router")
    if queues.num_prompts:
        waits.append(
            f"{_number(queues.num_prompts, 'prompt')} at workers ({queues.prompt_tokens:,} tokens, "
            f"{_seconds(queues.prompt_s)} of prefill)"
        )
    if waits:
        yield f"{' and '.join(waits)}."


def _one_more(found: Bottleneck) -> str:
    def gain(serves: float) -> str:
        more = serves / max(found.serves_per_s, 1e-9) - 1
        said = f"{_rate(serves)} requests/s (+{_percent(more)})"
        return said if more >= LEAST_GAIN else "no more"

    if found.sharing is Sharing.SHARED:
        return f"One more worker of either role: {gain(found.one_more[Role.DECODE])}."
    each = (f"{role.value} worker: {gain(found.one_more[role])}" for role in Role)
    return f"One more {', one more '.join(each)}."


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def _wanted(status: ModelStatus) -> Iterator[str]:
    """More or fewer workers than there are."""
    if status.wanted is None:
        return
    there = Counter(worker.pool_role for worker in status.workers if worker.state == "ready")
    parts = [
        f"{_number(count, f'{role.value} worker')} instead of {there[role.value]}"
        for role, count in status.wanted.counts.items()
        if count != there[role.value]
    ]
    if parts:
        yield f"It wants {' and '.join(parts)}: {status.wanted.why}."


def _rate(per_s: float) -> str:
    return f"{per_s:.1f}" if per_s >= 0.95 else f"{per_s:.2f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.95 else f"{seconds * 1e3:.0f} ms"


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago"
