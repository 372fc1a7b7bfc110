"""Detects a step that does not end: a device hangs, or another rank does that is still alive."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
from collections.abc import Callable

from engine.errors import EngineError

NUM_POLLS = 10
"""Looks at the step loop in the time that a step may take."""

log = logging.getLogger(__name__)


class StepHangs(EngineError):
    """Says how long the step has lasted."""


class Standstill:
    """A watchdog for steps that hang.

    It counts polls instead of seconds: a process that was stopped (SIGSTOP) has not polled.
    """

    def __init__(self) -> None:
        self._turn: int | None = None
        self._num_polls = 0

    def poll(self, turn: int) -> int:
        """How often the turn under way was seen before; `turn` counts the step loop's turns."""
        self._num_polls = self._num_polls + 1 if turn == self._turn else 0
        self._turn = turn
        return self._num_polls


async def watch_turns(
    turn: Callable[[], int], timeout_s: float, on_hang: Callable[[Exception], None]
) -> None:
    """Return when a turn has taken `timeout_s`, after calling `on_hang`; `turn()` counts turns."""
    standstill = Standstill()
    while True:
        if standstill.poll(turn()) == NUM_POLLS:
            break
        await asyncio.sleep(timeout_s / NUM_POLLS)
    hangs = StepHangs(f"a step has not ended after {timeout_s:g} s (step_timeout_s)")
    log.error("%s", hangs)
    on_hang(hangs)


async def end_when_held_up(timeout_s: float) -> None:
    """End this process with status 1 when its interpreter has run no task for `timeout_s`; runs
    until it is cancelled.

    A driver's call that never returns may hold the interpreter's lock. Then no Python code can
    report it, while other threads go on answering pings. The watching thread needs no lock; it
    writes every thread's traceback to stderr.
    """
    try:
        while True:
            faulthandler.dump_traceback_later(timeout_s, exit=True)
            await asyncio.sleep(timeout_s / NUM_POLLS)
    finally:
        faulthandler.cancel_dump_traceback_later()
