"""Time as a router that may stand still has to count it.

A process that is stopped (SIGSTOP, a frozen container, a suspended or migrated machine) misses
what its workers and clients do meanwhile, and finds all its deadlines past when it goes on. On this
clock no time passes while the process does not run: who waited is judged as if it had.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

BEAT_S = 0.25
"""How often the clock is read at least, by `keep`."""
STILL_S = 2.0
"""Read later than that, the process has stood still; less is a long step of the event loop."""
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
        if gap_s > STILL_S:
            self._lost_s += gap_s
            self._woke_s = seen - self._lost_s
            log.warning("this process stood still for %.0f s: deadlines are put off by that", gap_s)
        return seen - self._lost_s

    def since_standstill_s(self) -> float | None:
        """How long it has been running again; None if it never stood still."""
        now = self.now()
        return None if self._woke_s is None else now - self._woke_s

    def begin(self) -> None:
        """The time until now does not count as a standstill: the process was starting."""
        self._seen = self._read()

    async def keep(self) -> None:
        """Until cancelled: reads the clock often enough that a standstill is seen."""
        while True:
            self.now()
            await asyncio.sleep(BEAT_S)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """`callback` is called on the event loop, once this clock has come to `when`."""
        return Timer(self, when, callback)

    async def wait_for(self, future: asyncio.Future[Any], timeout_s: float) -> bool:
        """False when the time is over before the future is done; it is not cancelled then."""
        until = self.now() + timeout_s
        while not future.done():
            left_s = until - self.now()
            if left_s <= 0:
                return False
            await asyncio.wait([future], timeout=left_s)
        return True


class Timer:
    """One call at a time of a running clock."""

    def __init__(self, clock: RunningClock, when: float, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._when = when
        self._callback = callback
        self._handle = self._arm(max(0.0, when - clock.now()))

    def cancel(self) -> None:
        self._handle.cancel()

    def _arm(self, wait_s: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(wait_s, self._look)

    def _look(self) -> None:
        left_s = self._when - self._clock.now()
        if left_s > 0:
            self._handle = self._arm(left_s)
        else:
            self._callback()
