"""Conversations: each turn's prompt is all that was said before, behind a prefix that all share."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Mapping
from itertools import count

from sim.traces.arrival import ANSWERED, Arrival, Piece
from sim.traces.draws import drawn_length

PREFIX = (1 << 30) - 1
"""Content of the shared prefix, a system prompt, say."""
LEAST_THINK, MOST_THINK = 0.5, 1.5
"""The time from one turn to the next, in shares of `think`."""


def conversations(
    options: Mapping[str, float], per_s: float, draw: random.Random, content: Iterator[int]
) -> Iterator[Arrival]:
    """Turns of all conversations by time from 0 on, without end; `per_s` turns a second.

    Those that were under way at time 0 go on, so that turns come at this rate from the beginning;
    what they had said before is cached nowhere. A turn comes `think` seconds behind the one before
    on average, however long that takes to be answered.
    """
    begin_s = -options["think"] * options["turns"] * MOST_THINK
    waiting: list[tuple[float, int, Arrival]] = []
    order = count()
    while True:
        begin_s += draw.expovariate(per_s / options["turns"])
        while waiting and waiting[0][0] <= begin_s:
            yield heapq.heappop(waiting)[-1]
        for turn in _turns(options, begin_s, draw, content):
            if turn.at_s >= 0:
                heapq.heappush(waiting, (turn.at_s, next(order), turn))


def _turns(
    options: Mapping[str, float], begin_s: float, draw: random.Random, content: Iterator[int]
) -> Iterator[Arrival]:
    """One conversation's."""
    at_s, sigma = begin_s, options["sigma"]
    pieces: tuple[Piece, ...] = ((PREFIX, int(options["prefix"])),)
    for _ in range(int(options["turns"])):
        asked, answered = (
            drawn_length(draw, options[name], sigma) for name in ("append", "answer")
        )
        pieces += ((next(content), asked),)
        num_prompt = sum(num_tokens for _, num_tokens in pieces)
        yield Arrival(at_s, num_prompt, answered, (), pieces=pieces)
        pieces += ((ANSWERED, answered),)
        at_s += options["think"] * draw.uniform(LEAST_THINK, MOST_THINK)
