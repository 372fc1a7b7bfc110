"""Light traffic before the requests that are judged, from which a cold cluster learns.

Until workers have told what their steps take, a router places requests by role alone, and neither
refuses any nor changes a role. A cluster that has served for a minute knows, so that figures are
taken from there on.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.traces import BLOCK_TOKENS, Arrival

NUM_WARM = 20
WARM_EVERY_S = 0.25
WARM_S = (NUM_WARM + 10) * WARM_EVERY_S
"""Until the requests that warm a cluster up have ended."""
FIRST_BLOCK = 1 << 30
"""Content that no other request shares."""


def warm() -> list[Arrival]:
    """Few requests, for which workers learn what their steps take."""
    arrivals = []
    for number in range(NUM_WARM):
        num_prompt = 600 + 150 * number
        first = FIRST_BLOCK + 64 * number
        blocks = tuple(range(first, first + -(-num_prompt // BLOCK_TOKENS)))
        arrivals.append(Arrival(number * WARM_EVERY_S, num_prompt, 40 + number, blocks))
    return arrivals


def after_warm_up(arrivals: Sequence[Arrival]) -> list[Arrival]:
    """The warm-up, and behind it the requests; results of the first NUM_WARM are to be left out."""
    return [*warm(), *(each.later(WARM_S) for each in arrivals)]
