"""A step that does not end: a device hangs, or one of the worker's ranks does, alive as it is."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
from collections.abc import Callable

from engine.errors import EngineError

NUM_LOOKS = 10
"""In the time that a step may take."""

log = logging.getLogger(__name__)


class StepHangs(EngineError):
    """Says how long it has been waited for."""


class Standstill:
    """Counts looks and not time: a process that stood still as a whole has not looked meanwhile."""

    def __init__(self) -> None:
        self._turn: int | None = None
        self._num_looks = 0

    def look(self, turn: int) -> int:
        """How often this turn of the step loop, the one under way, was there before."""
        self._num_looks = self._num_looks + 1 if turn == self._turn else 0
        self._turn = turn
        return self._num_looks


async def watch_turns(
    turn: Callable[[], int], timeout_s: float, on_hang: Callable[[Exception], None]
) -> None:
    """Return when one has taken so long, and that is told; `turn()` counts them."""
    standstill = Standstill()
    while True:
        if standstill.look(turn()) == NUM_LOOKS:
            break
        await asyncio.sleep(timeout_s / NUM_LOOKS)
    hangs = StepHangs(f"a step has not ended after {timeout_s:g} s (step_timeout_s)")
    log.error("%s", hangs)
    on_hang(hangs)


async def end_when_held_up(timeout_s: float) -> None:
    """End this process with status 1 once its interpreter has run no task for so long; runs until
    it is cancelled.

    A call of a driver that never returns may hold the interpreter's lock: then nothing here can
    say so, while threads that are not Python's go on answering pings. Who watches is a thread
    without the lock, which writes to stderr where each thread stood.
    """
    try:
        while True:
            faulthandler.dump_traceback_later(timeout_s, exit=True)
            await asyncio.sleep(timeout_s / NUM_LOOKS)
    finally:
        faulthandler.cancel_dump_traceback_later()
