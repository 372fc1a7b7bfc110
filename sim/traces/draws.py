"""Random numbers of requests: when they come (at random, in clumps, in bursts, or evenly), and how
long they are."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial


def arrival_times(
    kind: str, options: Mapping[str, float], per_s: float, draw: random.Random
) -> Iterator[float]:
    """Rising times in seconds, without end; `per_s` a second on average."""
    match kind:
        case "burst":
            return _burst(options["times"], options["on"], options["off"], per_s, draw)
        case "gamma":
            # The coefficient of variation of a gamma distribution is 1 / sqrt(shape).
            shape = 1 / options["cv"] ** 2
            gap = partial(draw.gammavariate, shape, 1 / (shape * per_s))
        case "even":
            gap = partial(float, 1 / per_s)
        case _:
            gap = partial(draw.expovariate, per_s)
    return _summed(gap)


def drawn_length(draw: random.Random, mean: float, sigma: float) -> int:
    """Log-normal, at least one token."""
    return max(1, round(mean * draw.lognormvariate(0, sigma) / math.exp(sigma**2 / 2)))


def _summed(gap: Callable[[], float]) -> Iterator[float]:
    at_s = 0.0
    while True:
        at_s += gap()
        yield at_s


def _burst(
    times: float, on_s: float, off_s: float, per_s: float, draw: random.Random
) -> Iterator[float]:
    """Poisson arrivals whose rate is `times` as high for `on_s` as for the `off_s` behind it.

    Drawn at the high rate, of which the low one keeps its share. (Lewis and Shedler: Simulation of
    nonhomogeneous Poisson processes by thinning, 1979)
    """
    low_per_s = per_s * (on_s + off_s) / (times * on_s + off_s)
    most_per_s = low_per_s * max(1.0, times)
    for at_s in _summed(partial(draw.expovariate, most_per_s)):
        rate = low_per_s * (times if at_s % (on_s + off_s) < on_s else 1.0)
        if draw.random() * most_per_s < rate:
            yield at_s
