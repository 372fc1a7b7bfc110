"""Light traffic before the requests that are judged, from which a cold cluster learns.

Until workers have told what their steps take, a router places requests by role alone, and neither
refuses any nor changes a role. A cluster that has served for a minute knows, so that figures are
taken from there on.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sim.simulation import WorkerPool
from sim.traces import BLOCK_TOKENS, Arrival

NUM_WARM = 20
WARM_EVERY_S = 0.25
LEAST_PROMPT, MORE_PROMPT, LEAST_ANSWER = 600, 150, 40
"""Tokens of the first warm-up request, and by how many each is longer than the one before."""
LONGEST_PROMPT = LEAST_PROMPT + MORE_PROMPT * (NUM_WARM - 1)
LONGEST_ANSWER = LEAST_ANSWER + NUM_WARM - 1
FIRST_BLOCK = 1 << 30
"""Content that no other request shares."""


class WarmUp(msgspec.Struct, frozen=True, kw_only=True):
    """Few requests, for which workers learn what their steps take."""

    every_s: float = WARM_EVERY_S
    scale: float = 1.0
    """Prompts have this share of their usual lengths, where workers hold no longer ones."""
    longest_s: float = 0.0
    """The slowest request, on a worker of its own."""

    @staticmethod
    def of(pools: Sequence[WorkerPool]) -> WarmUp:
        """A warm-up that these workers can follow, however slow or small they are."""
        machines = [pool.machine for pool in pools if pool.num_workers]
        room = min(min(each.max_model_len, each.pool_tokens) for each in machines)
        scale = min(1.0, room / 2 / LONGEST_PROMPT)
        longest = max(1, int(LONGEST_PROMPT * scale))
        longest_s = max(each.prefill_s(longest) + LONGEST_ANSWER * each.step_s for each in machines)
        every_s = max(WARM_EVERY_S, longest_s / sum(pool.num_workers for pool in pools))
        return WarmUp(every_s=every_s, scale=scale, longest_s=longest_s)

    @property
    def end_s(self) -> float:
        """When its requests have ended."""
        return NUM_WARM * self.every_s + max(10 * self.every_s, 1.5 * self.longest_s)

    def requests(self) -> list[Arrival]:
        arrivals = []
        for number in range(NUM_WARM):
            num_prompt = max(1, int((LEAST_PROMPT + MORE_PROMPT * number) * self.scale))
            first = FIRST_BLOCK + 64 * number
            blocks = tuple(range(first, first + -(-num_prompt // BLOCK_TOKENS)))
            at_s, num_new = number * self.every_s, LEAST_ANSWER + number
            arrivals.append(Arrival(at_s, num_prompt, num_new, blocks))
        return arrivals

    def before(self, arrivals: Sequence[Arrival]) -> list[Arrival]:
        """The warm-up, and behind it the requests; the first NUM_WARM results are to be left
        out."""
        return [*self.requests(), *(each.later(self.end_s) for each in arrivals)]


WARM_S = WarmUp().end_s
"""When the warm-up of usual workers has ended."""


def after_warm_up(arrivals: Sequence[Arrival]) -> list[Arrival]:
    """The requests behind the warm-up of usual workers; see `WarmUp.before`."""
    return WarmUp().before(arrivals)
