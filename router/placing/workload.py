"""What requests bring, learned from those that come: the workload for which roles are chosen."""

from __future__ import annotations

import math

import msgspec

WINDOW_S = 5.0
"""Averaging window of the rate, in seconds."""
MEMORY = 0.97
"""Decay of a request's weight with each further request."""
FEW_ANSWERS = 4
"""Answers in the window up to which their mean alone counts."""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Means over recent requests, in tokens and seconds; the rate is that of all routers."""

    num_requests: int
    """Requests seen so far."""
    requests_per_s: float
    uncached_tokens: float
    """Prompt tokens that have to be computed."""
    cached_tokens: float
    answer_tokens: float
    tpot_s: float | None
    """Target for the time per output token; None when no request has one."""

    @property
    def context_tokens(self) -> float:
        """Mean context of a decoding sequence."""
        return self.cached_tokens + self.uncached_tokens + self.answer_tokens / 2


class WorkloadMeter:
    """Exponentially weighted means: over requests for their sizes, over time for their rate."""

    def __init__(self) -> None:
        self.num_seen = 0
        self.num_in_time = 0
        """Answers so far whose tokens have kept the mean target."""
        self._weight = self._uncached = self._cached = 0.0
        self._target_weight = self._target = 0.0
        self._rate = self._elsewhere = 0.0
        self._began_s = self._seen_s = 0.0
        self._answers = self._generated = 0.0

    def observe(
        self, uncached_tokens: float, cached_tokens: float, tpot_s: float | None, now: float
    ) -> None:
        """Enter a request that has come."""
        if not self.num_seen:
            self._began_s = now
        kept = self._kept(now)
        self._rate = kept * self._rate + 1 / WINDOW_S
        self._elsewhere *= kept
        self._answers *= kept
        self._generated *= kept
        self._seen_s = now
        self.num_seen += 1
        self._weight = MEMORY * self._weight + 1.0
        self._uncached = MEMORY * self._uncached + uncached_tokens
        self._cached = MEMORY * self._cached + cached_tokens
        if tpot_s is not None:
            self._target_weight = MEMORY * self._target_weight + 1.0
            self._target = MEMORY * self._target + tpot_s

    def came_elsewhere(self, count: int) -> None:
        """Other routers have brought so many requests, of which no more is known."""
        self._elsewhere += count / WINDOW_S

    def generated(self, num_tokens: int) -> None:
        """Workers have generated tokens, other routers' included."""
        self._generated += num_tokens

    def answered(self, num_tokens: int, decode_s: float) -> None:
        """An answer of this router's is complete; its tokens behind the first took so long."""
        self._answers += 1
        target_s = self.tpot_s
        if target_s is None or decode_s <= target_s * (num_tokens - 1):
            self.num_in_time += 1

    @property
    def tpot_s(self) -> float | None:
        """The mean target for the time per output token; None when no request has one."""
        return self._target / self._target_weight if self._target_weight else None

    def answer_tokens(self, mean: float) -> float:
        """The mean length of answers, where those that have ended have this mean.

        Short answers end first, so that after a change their mean is too low for as long as an
        answer takes, while the tokens generated for each that has ended are too many.
        """
        if self._answers < FEW_ANSWERS:
            return mean
        ours = self._rate / (self._rate + self._elsewhere)
        return math.sqrt(mean * max(mean, ours * self._generated / self._answers))

    def workload(self, mean_answer: float, now: float) -> Workload | None:
        """The workload, where answers that have ended have this mean length; None before the first
        request."""
        if not self.num_seen:
            return None
        # A window that is not over yet holds too little.
        share = 1 - math.exp(-max(now - self._began_s, 0.1 * WINDOW_S) / WINDOW_S)
        return Workload(
            num_requests=self.num_seen,
            requests_per_s=self._kept(now) * (self._rate + self._elsewhere) / share,
            uncached_tokens=self._uncached / self._weight,
            cached_tokens=self._cached / self._weight,
            answer_tokens=self.answer_tokens(mean_answer),
            tpot_s=self.tpot_s,
        )

    def _kept(self, now: float) -> float:
        """Share of the window's sums that is left now."""
        return math.exp(-max(0.0, now - self._seen_s) / WINDOW_S)
