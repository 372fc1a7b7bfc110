"""How long a process that keeps dying waits before it is started again."""

from __future__ import annotations

FIRST_S = 1.0
LONGEST_S = 60.0
HEALTHY_S = 120.0
"""Whoever has lived this long is not one that dies at every start."""


class Backoff:
    """The first start after a death is at once; each further one waits twice as long."""

    def __init__(self, now: float) -> None:
        self._wait_s = 0.0
        self._started_at = now

    def died(self, now: float) -> float:
        """When to start it again."""
        if now - self._started_at >= HEALTHY_S:
            self._wait_s = 0.0
        again_at = now + self._wait_s
        self._wait_s = min(LONGEST_S, max(FIRST_S, 2 * self._wait_s))
        self._started_at = again_at
        return again_at
