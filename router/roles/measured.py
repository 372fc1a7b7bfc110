"""The share of requests that were answered in time, over windows of time."""

from __future__ import annotations

import math
from bisect import bisect_left

import msgspec

from router.placing.workload import Workload

LEAST_S = 4.0
"""Least duration of a window."""
LEAST_NUM = 60
"""Least number of requests in a window."""
KEPT_S = 120.0
"""Least time for which samples are kept."""
ROUNDING_S = 1e-9
ALIKE = 1.5
"""Factor by which rates and lengths of one traffic may differ."""


class Measured(msgspec.Struct, frozen=True):
    """Requests that were answered in time, of `num` that came."""

    share: float
    num: int


class _Counts(msgspec.Struct, frozen=True):
    time_s: float
    num_came: int
    num_good: int
    workload: Workload


class Measurements:
    """Sums of requests, sampled at each decision."""

    def __init__(self) -> None:
        self._samples: list[_Counts] = []

    def add(self, counts: tuple[int, int], workload: Workload, now: float) -> None:
        """Enter the number of requests that have come so far, and of those answered in time."""
        self._samples.append(_Counts(now, *counts, workload))
        if self._samples[0].time_s < now - 2 * KEPT_S:
            del self._samples[: self._position(now - KEPT_S)]

    def over(
        self, until_s: float, lifetime_s: float, since_s: float = -math.inf
    ) -> Measured | None:
        """The share in the shortest window that is long enough, ends at `until_s` and begins no
        earlier than `since_s`.

        Answers take `lifetime_s`: they are compared with the requests that came so long before.
        None where too few have come, or where the traffic has changed within the window.
        """
        samples, end = self._samples, self._position(until_s)
        came_end = self._position(until_s - lifetime_s)
        begin = self._position(until_s - LEAST_S)
        while begin >= 0 and samples[begin].time_s >= since_s:
            came_begin = self._position(samples[begin].time_s - lifetime_s)
            num = samples[came_end].num_came - samples[came_begin].num_came
            if samples[0].time_s > samples[begin].time_s - lifetime_s:
                return None  # that was before the first sample
            if num >= LEAST_NUM:
                if not alike(samples[came_begin].workload, samples[end].workload):
                    return None
                num_good = samples[end].num_good - samples[begin].num_good
                return Measured(min(1.0, num_good / num), num)
            begin -= 1
        return None

    def _position(self, time_s: float) -> int:
        """Position of the first sample at that time or later, or else of the last one."""
        found = bisect_left(self._samples, time_s - ROUNDING_S, key=lambda each: each.time_s)
        return min(found, len(self._samples) - 1)


def alike(one: Workload, other: Workload) -> bool:
    """Whether rates and lengths are those of one traffic."""
    pairs = (
        (one.requests_per_s, other.requests_per_s),
        (one.uncached_tokens, other.uncached_tokens),
        (one.answer_tokens, other.answer_tokens),
    )
    return all(max(pair) <= ALIKE * max(min(pair), 1e-9) for pair in pairs)
