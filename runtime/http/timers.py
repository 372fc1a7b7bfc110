"""The timers of one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timers:
    """Named timers, at most one of each name. `end` cancels all and prevents new ones, so that no
    timer keeps its connection alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._ended = False

    def start(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` after `seconds`, unless a timer of this name is running already."""
        if not self._ended and name not in self._timers:
            self._timers[name] = self._loop.call_later(seconds, self._fire, name, call)

    def stop(self, *names: str) -> None:
        for name in names:
            if (timer := self._timers.pop(name, None)) is not None:
                timer.cancel()

    def runs(self, name: str) -> bool:
        return name in self._timers

    def end(self) -> None:
        self._ended = True
        self.stop(*self._timers)

    def _fire(self, name: str, call: Callable[[], None]) -> None:
        self._timers.pop(name, None)
        call()
