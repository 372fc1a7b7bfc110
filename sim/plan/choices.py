"""Pools that are considered: pairs of workers' kinds, in numbers that the formula finds likely."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from sim.plan.formula import Estimate, Formula, Side
from sim.plan.pool_choice import Needs, PoolChoice, PoolFamily, WorkerKind

CHUNKS = (2048, 8192)
"""Prompt tokens of a prefill worker's step that are tried."""
LEAST_SERVED, MOST_SERVED = 0.6, 1.8
"""Numbers of workers are considered whose estimate is within these multiples of the rate."""
MOST_COUNTS = 24
"""Numbers of one kind in one role that are considered; of more, evenly distributed ones."""
MOST_WORKERS = 4096
"""Limit where neither the devices nor --max-gpus has one."""


class Considered(msgspec.Struct, frozen=True):
    """A choice, and what it serves by the formula."""

    choice: PoolChoice
    estimate: Estimate


def families(kinds: Sequence[WorkerKind]) -> list[PoolFamily]:
    """Unsplit ones first; every pair of kinds may prefill and decode."""
    pairs = [
        PoolFamily(decode, prefill, chunk)
        for prefill in kinds
        for decode in kinds
        for chunk in CHUNKS
    ]
    return [PoolFamily(kind) for kind in kinds] + pairs


def considered(family: PoolFamily, formula: Formula, needs: Needs) -> Iterator[Considered]:
    """Numbers of workers within the limits that serve about what is needed, cheap or not."""
    decode = _counts(lambda count: formula.decode(family, count), family.decode, needs)
    if family.prefill is None:
        for count, side in decode:
            yield Considered(PoolChoice(family, 0, count), Estimate(side))
        return
    prefill = _counts(lambda count: formula.prefill(family, count), family.prefill, needs)
    for num_prefill, prompts in prefill:
        for num_decode, answers in decode:
            choice = PoolChoice(family, num_prefill, num_decode)
            if choice.exists(needs.max_gpus):
                yield Considered(choice, Estimate(answers, prompts))


def every_choice(family: PoolFamily, needs: Needs) -> Iterator[PoolChoice]:
    """All numbers of workers within the limits, whatever they serve."""
    if family.prefill is None:
        yield from (PoolChoice(family, 0, 1 + n) for n in range(most_workers(family.decode, needs)))
        return
    for num_prefill in range(1, most_workers(family.prefill, needs) + 1):
        for num_decode in range(1, most_workers(family.decode, needs) + 1):
            choice = PoolChoice(family, num_prefill, num_decode)
            if not choice.exists(needs.max_gpus):
                break
            yield choice


def largest(family: PoolFamily, needs: Needs) -> PoolChoice | None:
    """About the most that the limits allow, evenly divided; None where they allow none."""
    most = most_workers(family.decode, needs)
    if family.prefill is None:
        return PoolChoice(family, 0, most) if most else None
    for share in range(most_workers(family.prefill, needs), 0, -1):
        found = PoolChoice(family, share, max(1, min(share, most)))
        if found.exists(needs.max_gpus):
            return found
    return None


def most_workers(kind: WorkerKind, needs: Needs) -> int:
    gpus = [limit for limit in (needs.max_gpus, kind.num_gpus_that_exist) if limit is not None]
    return min([MOST_WORKERS, *(limit // kind.tensor_parallel for limit in gpus)])


def _counts(
    side_of: Callable[[int], Side], kind: WorkerKind, needs: Needs
) -> list[tuple[int, Side]]:
    """Numbers of workers with their estimates; a number more never serves less."""
    limit = most_workers(kind, needs)
    rate = needs.requests_per_s
    first = _first(side_of, LEAST_SERVED * rate, limit)
    last = min(limit, _first(side_of, MOST_SERVED * rate, limit))
    step = max(1, (last - first + 1) // MOST_COUNTS)
    return [(count, side_of(count)) for count in range(first, last + 1, step)]


def _first(side_of: Callable[[int], Side], requests_per_s: float, limit: int) -> int:
    """The fewest workers that serve so much; one more than `limit` where all of them do not."""
    low, high = 1, limit + 1
    while low < high:
        middle = (low + high) // 2
        if side_of(middle).requests_per_s >= requests_per_s:
            high = middle
        else:
            low = middle + 1
    return low
