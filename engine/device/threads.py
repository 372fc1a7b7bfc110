"""The number of CPU threads of a step: more than the worker's own while cores are idle."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from engine.device.cores import Cores, CpuTimes, count_cores, read_cores

_PAUSE_S = 0.005


class Threads:
    """`least` threads are the worker's own; up to `most` run while their cores are idle.

    `adjust` is called before each layer and reads the counters every few milliseconds, in some
    20 us. Two workers on one machine each get its cores while the other waits, and share them
    otherwise. Where `read` returns None, steps use `least`.
    """

    def __init__(
        self,
        least: int,
        most: int | None = None,
        cores: Cores | None = None,
        *,
        read: Callable[[], CpuTimes | None] = read_cores,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._least = least
        self._most = max(least, most or least)
        self._cores = cores or Cores(count_cores(), os.cpu_count() or 1)
        self._read = read
        self._clock = clock
        self._next_look = 0.0
        self.number = least

    @property
    def may_grow(self) -> bool:
        return self._most > self._least

    def adjust(self) -> int:
        """The number of threads for the next layers, which is set in torch, too."""
        if self.may_grow and (now := self._clock()) >= self._next_look:
            self._next_look = now + _PAUSE_S
            self._use(self._judge())
        return self.number

    def settle(self) -> int:
        """Use `least` threads, for a step that is too small for more."""
        self._use(self._least)
        return self._least

    def _judge(self) -> int:
        reading = self._read()
        if reading is None:
            self._most = self._least
            return self._least
        free = self._cores.judge(reading, self.number)
        return max(self._least, min(self._most, free))

    def _use(self, number: int) -> None:
        if number != self.number:
            torch.set_num_threads(number)
            self.number = number
