"""Timing of actions that alternate, so that all are affected by the same noise."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one action in each round."""

    rounds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return statistics.median(self.rounds)

    def speed_beside(self, other: Times) -> float:
        """Speed relative to the other action: the median over rounds."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(theirs / ours for ours, theirs in pairs)


def alternate(
    *actions: Callable[[], object], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[Times]:
    """Run every action once per round; the first round is a warm-up."""
    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds + 1):
        for action, spent in zip(actions, seconds, strict=True):
            spent.append(timed(action, clock))
    return [Times(tuple(spent[1:])) for spent in seconds]


def timed(action: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    action()
    return clock() - started


def cpu_s(pid: int) -> float:
    """CPU time of all threads of a process so far, to the nanosecond. (Linux)"""
    stats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(stat.read_text().split()[0]) for stat in stats) / 1e9


def family_cpu_s(pid: int) -> float:
    """CPU time of a process and all its live descendants."""
    return sum(cpu_s(member) for member in family(pid))


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for member in found:
        children = Path(f"/proc/{member}/task").glob("*/children")
        found += [int(child) for text in children for child in text.read_text().split()]
    return found
