"""Made-up conversations with the long tails of recorded ones."""

from __future__ import annotations

import random

from sim.traces.arrival import BLOCK_TOKENS, Arrival


def synthetic(count: int, seed: int = 1, tenant: str = "") -> list[Arrival]:
    """Conversations of a few turns, each turn behind the one before, begun at random times."""
    draw = random.Random(seed)
    arrivals: list[Arrival] = []
    begin, next_block = 0.0, seed << 24
    while len(arrivals) < count:
        begin += draw.expovariate(1.0)
        at_s, blocks = begin, [0]
        for _ in range(draw.choice((1, 1, 2, 3, 5))):
            num_more = 1 + int(draw.paretovariate(1.2))
            blocks += range(next_block, next_block + min(num_more, 60))
            next_block += 60
            num_prompt = len(blocks) * BLOCK_TOKENS - draw.randrange(BLOCK_TOKENS)
            num_new = max(1, min(1500, int(draw.lognormvariate(5.2, 0.8))))
            arrivals.append(Arrival(at_s, num_prompt, num_new, tuple(blocks), tenant))
            at_s += 5 + draw.expovariate(1 / 20)
    return sorted(arrivals, key=lambda arrival: arrival.at_s)[:count]
