"""A clock that stops while the process is suspended.

A suspended process (SIGSTOP, a frozen container, a migrated machine) misses messages of workers and
clients, and would find all its deadlines past when it resumes. On this clock no time passes
meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

READ_INTERVAL_S = 0.25
"""Interval at which `keep` reads the clock."""
STANDSTILL_S = 2.0
"""A longer gap between two readings counts as a standstill; shorter ones may be long event loop
steps."""
log = logging.getLogger("tandem.router")


class RunningClock:
    """Seconds during which this process ran. `read` is a monotonic clock."""

    def __init__(self, read: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._seen = read()
        self._lost_s = 0.0
        self._woke_s: float | None = None

    def now(self) -> float:
        seen = self._read()
        gap_s = seen - self._seen
        self._seen = seen
        if gap_s > STANDSTILL_S:
            self._lost_s += gap_s
            self._woke_s = seen - self._lost_s
            log.warning(
                "this process was suspended for %.0f s: deadlines are extended by that", gap_s
            )
        return seen - self._lost_s

    def since_standstill_s(self) -> float | None:
        """Seconds since the last standstill; None if there was none."""
        now = self.now()
        return None if self._woke_s is None else now - self._woke_s

    def begin(self) -> None:
        """Ignore the time until now, during which the process was starting."""
        self._seen = self._read()

    async def keep(self) -> None:
        """Read the clock periodically, until cancelled, so that a standstill is detected."""
        while True:
            self.now()
            await asyncio.sleep(READ_INTERVAL_S)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` on the event loop when this clock reaches `when`."""
        return Timer(self, when, callback)

    async def wait_for(self, future: asyncio.Future[Any], timeout_s: float) -> bool:
        """Wait for the future; False after `timeout_s`. The future is not cancelled."""
        until = self.now() + timeout_s
        while not future.done():
            left_s = until - self.now()
            if left_s <= 0:
                return False
            await asyncio.wait([future], timeout=left_s)
        return True


class Timer:
    """A timer on a running clock."""

    def __init__(self, clock: RunningClock, when: float, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._when = when
        self._callback = callback
        self._handle = self._arm(max(0.0, when - clock.now()))

    def cancel(self) -> None:
        self._handle.cancel()

    def _arm(self, wait_s: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(wait_s, self._check)

    def _check(self) -> None:
        left_s = self._when - self._clock.now()
        if left_s > 0:
            self._handle = self._arm(left_s)
        else:
            self._callback()
