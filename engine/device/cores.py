"""Which cores of the machine others leave to us, by what Linux counts."""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

_WINDOW_S = 0.04
"""Idle time is counted in hundredths of a second: of two cores' time, an eighth."""
_OLD_S = 0.1
_TOLERATED = 0.4
"""So much of a core may others use that we take it: routers, clients, and the error of a window."""

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """At a time, in seconds, on any steady clock."""

    at: float
    idle_s: float
    """That all cores of the machine together have been idle so far."""
    ours_s: float
    """CPU time of this process so far."""
    num_running: int
    """Threads of the machine that run or wait for a core now, the reader among them."""


class Cores:
    """Judges from readings how many of `num_ours` cores we may use; the machine has `num_all`.

    What neither we used nor nobody, others did, wherever on the machine. A thread that runs at the
    moment of a reading says less, for half of the time one of the kernel's does. But between the
    steps of a worker nobody reads, and what others did then may be over: nobody running at the
    beginning of a step is enough to take their cores, and time tells whether that was right.
    """

    def __init__(self, num_ours: int, num_all: int) -> None:
        self._num_ours = num_ours
        self._num_all = num_all
        self._past: deque[CpuTimes] = deque()

    def judge(self, now: CpuTimes, using: int) -> int:
        """How many cores are ours or nobody's, while `using` of them are in use."""
        past = self._past
        while len(past) > 1 and now.at - past[1].at >= _WINDOW_S:
            past.popleft()
        window_s = now.at - past[0].at if past else 0.0
        if window_s >= _OLD_S and now.ours_s - past[0].ours_s < window_s / 2:  # we were away
            free = max(self._by_time(past[0], now), self._num_ours - (now.num_running - 1))
            past.clear()
        elif window_s >= _WINDOW_S:
            free = self._by_time(past[0], now)
        else:  # our threads that shared the last layer spin, in wait for the next
            free = max(using, self._num_ours - max(0, now.num_running - using))
        past.append(now)
        return free

    def _by_time(self, begin: CpuTimes, end: CpuTimes) -> int:
        elapsed_s, idle_s = end.at - begin.at, end.idle_s - begin.idle_s
        others = self._num_all - (idle_s + end.ours_s - begin.ours_s) / elapsed_s
        return int(self._num_ours - max(0.0, others - _TOLERATED))


def read_cores() -> CpuTimes | None:
    """In about 15 us; None where the system does not tell, as only Linux does."""
    try:
        idle_s = float(_read("/proc/uptime").split()[1])
        num_running = int(_read("/proc/loadavg").split()[3].partition(b"/")[0])
    except (OSError, ValueError, IndexError):
        return None
    return CpuTimes(time.perf_counter(), idle_s, time.process_time(), num_running)


def count_cores(cgroup: Path = _CGROUP) -> int:
    """That this process may use: those that it is bound to, or as many as its container has."""
    num_cores = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return num_cores if quota is None else max(1, min(num_cores, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """Of cores, by either version of cgroups; None where there is none."""
    version_1 = cgroup / "cpu" / "cpu.cfs_quota_us", cgroup / "cpu" / "cpu.cfs_period_us"
    for files in ((cgroup / "cpu.max",), version_1):
        try:
            quota, period = " ".join(file.read_text() for file in files).split()
        except (OSError, ValueError):
            continue
        return None if quota in ("max", "-1") else int(quota) / int(period)
    return None


def _read(path: str) -> bytes:
    """The first of a file that the kernel makes when it is read."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 256)
    finally:
        os.close(file)
