"""Counts CPU cores that other processes leave idle, from /proc."""

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
"""A core may be used by others this much and still count as ours: routers, measurement error."""

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """At a time, in seconds, on any steady clock."""

    at: float
    idle_s: float
    """Idle time of all cores of the machine together."""
    ours_s: float
    """CPU time of this process."""
    num_running: int
    """Threads of the machine that run or wait for a core now, the caller included."""


class Cores:
    """Judges from readings how many of `num_ours` cores we may use; the machine has `num_all`.

    CPU time of others = total - idle - ours, over a window. The number of running threads at one
    moment says less: half of the time one of them is the kernel's. But after a pause between steps
    the window may be out of date, so no other running thread at the beginning of a step is enough
    to take all cores, and the next windows correct that.
    """

    def __init__(self, num_ours: int, num_all: int) -> None:
        self._num_ours = num_ours
        self._num_all = num_all
        self._past: deque[CpuTimes] = deque()

    def judge(self, now: CpuTimes, using: int) -> int:
        """Number of cores that are ours or idle, while this process uses `using` of them."""
        past = self._past
        while len(past) > 1 and now.at - past[1].at >= _WINDOW_S:
            past.popleft()
        window_s = now.at - past[0].at if past else 0.0
        if window_s >= _OLD_S and now.ours_s - past[0].ours_s < window_s / 2:  # after a pause
            free = max(self._by_time(past[0], now), self._num_ours - (now.num_running - 1))
            past.clear()
        elif window_s >= _WINDOW_S:
            free = self._by_time(past[0], now)
        else:  # our threads spin between layers
            free = max(using, self._num_ours - max(0, now.num_running - using))
        past.append(now)
        return free

    def _by_time(self, begin: CpuTimes, end: CpuTimes) -> int:
        elapsed_s, idle_s = end.at - begin.at, end.idle_s - begin.idle_s
        others = self._num_all - (idle_s + end.ours_s - begin.ours_s) / elapsed_s
        return int(self._num_ours - max(0.0, others - _TOLERATED))


def read_cores() -> CpuTimes | None:
    """Read the counters, in about 15 us; None on systems other than Linux."""
    try:
        idle_s = float(_read("/proc/uptime").split()[1])
        num_running = int(_read("/proc/loadavg").split()[3].partition(b"/")[0])
    except (OSError, ValueError, IndexError):
        return None
    return CpuTimes(time.perf_counter(), idle_s, time.process_time(), num_running)


def count_cores(cgroup: Path = _CGROUP) -> int:
    """Cores that this process may use, by its CPU affinity and its container's quota."""
    num_cores = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return num_cores if quota is None else max(1, min(num_cores, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """The CPU quota in cores, of cgroups version 2 or 1; None without one."""
    version_1 = cgroup / "cpu" / "cpu.cfs_quota_us", cgroup / "cpu" / "cpu.cfs_period_us"
    for files in ((cgroup / "cpu.max",), version_1):
        try:
            quota, period = " ".join(file.read_text() for file in files).split()
        except (OSError, ValueError):
            continue
        return None if quota in ("max", "-1") else int(quota) / int(period)
    return None


def _read(path: str) -> bytes:
    """The first bytes of a /proc file."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 256)
    finally:
        os.close(file)
