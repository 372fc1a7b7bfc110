"""Attainment of targets over the last minutes, learned from ended requests; pure, time is an
argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec

SPAN_S = 5.0
"""Requests are counted together over this time."""
KEPT_S = 300.0
"""Time after which requests are forgotten."""


class TargetCount(msgspec.Struct, frozen=True):
    """Requests that had a target, and those of them that met it."""

    num: int = 0
    num_met: int = 0

    @property
    def share(self) -> float | None:
        """Share that met the target, 0 to 1; None without requests."""
        return self.num_met / self.num if self.num else None


class Attainment(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that ended within the last `window_s` seconds."""

    window_s: float
    num_ended: int = 0
    """Ended requests; those that were refused or failed included."""
    num_refused: int = 0
    """Requests of these without an answer, which miss every target."""
    ttft: TargetCount = TargetCount()
    tpot: TargetCount = TargetCount()


@dataclass(slots=True)
class _Interval:
    begin_s: float
    num: int = 0
    refused: int = 0
    counts: dict[str, list[int]] = field(default_factory=lambda: {"ttft": [0, 0], "tpot": [0, 0]})

    def count(self, target: str, met: bool) -> None:
        self.counts[target][0] += 1
        self.counts[target][1] += met


class AttainmentMeter:
    """Counts ended requests by whether they met their targets."""

    def __init__(self) -> None:
        self._spans: deque[_Interval] = deque()

    def ended(
        self,
        ttft_s: float | None,
        tpot_s: float | None,
        ttft_target_s: float | None,
        tpot_target_s: float | None,
        now: float,
    ) -> None:
        """Count a request that was answered; `tpot_s` is None for an answer of one token."""
        span = self._span(now)
        span.num += 1
        if ttft_target_s is not None and ttft_s is not None:
            span.count("ttft", ttft_s <= ttft_target_s)
        if tpot_target_s is not None and tpot_s is not None:
            span.count("tpot", tpot_s <= tpot_target_s)

    def refused(self, ttft_target_s: float | None, tpot_target_s: float | None, now: float) -> None:
        """Count a request that was refused or failed for want of workers."""
        span = self._span(now)
        span.num += 1
        span.refused += 1
        for target, seconds in (("ttft", ttft_target_s), ("tpot", tpot_target_s)):
            if seconds is not None:
                span.count(target, False)

    def over(self, window_s: float, now: float) -> Attainment:
        """The attainment of requests that ended within the window, which is at most KEPT_S."""
        recent = [it for it in self._spans if it.begin_s + SPAN_S > now - window_s]

        def total(target: str) -> TargetCount:
            return TargetCount(
                sum(it.counts[target][0] for it in recent),
                sum(it.counts[target][1] for it in recent),
            )

        return Attainment(
            window_s=window_s,
            num_ended=sum(it.num for it in recent),
            num_refused=sum(it.refused for it in recent),
            ttft=total("ttft"),
            tpot=total("tpot"),
        )

    def _span(self, now: float) -> _Interval:
        if not self._spans or now >= self._spans[-1].begin_s + SPAN_S:
            self._spans.append(_Interval(now))
        while self._spans[0].begin_s < now - KEPT_S:
            self._spans.popleft()
        return self._spans[-1]
