"""How many threads a wide step takes: more than its share, while cores stand idle."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

_LOADAVG = Path("/proc/loadavg")


def num_runnable() -> int:
    """Threads of the whole machine that run or wait for a core, this one included. (Linux)"""
    return int(_LOADAVG.read_text().split()[3].partition("/")[0])


class Threads:
    """`least` threads are ours; up to `most` are taken while nobody else wants their cores.

    Looked at before each layer of a wide step, which takes milliseconds; a look takes some 20 us.
    Two workers on one machine each get its cores when the other waits, and share them otherwise.
    """

    def __init__(
        self,
        least: int,
        most: int | None = None,
        count: Callable[[], int] = num_runnable,
        num_cores: int | None = None,
    ) -> None:
        self._least = least
        self._most = max(least, most or least)
        self._count = count
        self._num_cores = num_cores or len(os.sched_getaffinity(0))
        self.number = least

    def adjust(self) -> int:
        """How many to use from now on; torch is told."""
        if self._most > self._least:
            # Those that shared the last layer with us still spin, in wait for the next.
            others = max(0, self._count() - self.number)
            self._use(max(self._least, min(self._most, self._num_cores - others)))
        return self.number

    def settle(self) -> int:
        """Back to our share, at the end of a step."""
        self._use(self._least)
        return self._least

    def _use(self, number: int) -> None:
        if number != self.number:
            torch.set_num_threads(number)
            self.number = number
