"""Restart delays: a process that keeps dying waits longer before each further start."""

from __future__ import annotations

FIRST_S = 1.0
LONGEST_S = 60.0
HEALTHY_S = 120.0
"""A process that has lived this long does not count as dying at every start."""


class Backoff:
    """The first restart is immediate; each further one waits twice as long as the one before."""

    def __init__(self, now: float) -> None:
        self._wait_s = 0.0
        self._started_at = now

    def restart_at(self, now: float) -> float:
        """The time of the next start, for a process that died at `now`."""
        if now - self._started_at >= HEALTHY_S:
            self._wait_s = 0.0
        again_at = now + self._wait_s
        self._wait_s = min(LONGEST_S, max(FIRST_S, 2 * self._wait_s))
        self._started_at = again_at
        return again_at
