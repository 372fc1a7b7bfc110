"""What a trace brings, in the few numbers that the formula needs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from router.placing.workload import Workload
from sim.traces import BLOCK_TOKENS, Arrival

LONG_PROMPT = 0.9
"""Quantile of prompts whose own computation counts when first tokens are predicted."""


class TrafficProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Means and quantiles over the requests of a trace; lengths in tokens."""

    num_requests: int
    uncached_tokens: float
    cached_tokens: float
    """Shared with an earlier request, so that a cache may have it."""
    answer_tokens: float
    long_prompt_tokens: float
    """Uncached tokens of a long prompt, see LONG_PROMPT."""
    arrival_scv: float
    """Squared coefficient of variation of the times between arrivals; 1 for Poisson arrivals."""
    prompt_scv: float
    """That of uncached tokens."""
    lengths: tuple[int, ...]
    """Prompt and answer of each request together, ascending."""

    def workload(self, requests_per_s: float, tpot_s: float) -> Workload:
        """The workload as the role controller knows it."""
        return Workload(
            num_requests=self.num_requests,
            requests_per_s=requests_per_s,
            uncached_tokens=self.uncached_tokens,
            cached_tokens=self.cached_tokens,
            answer_tokens=self.answer_tokens,
            tpot_s=tpot_s,
        )

    def share_longer(self, num_tokens: int) -> float:
        """Share of the requests that need more than so many tokens of cache."""
        return 1.0 - float(np.searchsorted(self.lengths, num_tokens, side="right")) / len(
            self.lengths
        )


def traffic_of(arrivals: Sequence[Arrival]) -> TrafficProfile:
    """The traffic of a trace, in which a cache would hold every earlier prompt."""
    cached = np.array(_cached(arrivals), float)
    prompts = np.array([each.num_prompt for each in arrivals], float)
    answers = np.array([each.num_new for each in arrivals], float)
    uncached = np.maximum(1.0, prompts - cached)
    gaps = np.diff([each.at_s for each in arrivals])
    return TrafficProfile(
        num_requests=len(arrivals),
        uncached_tokens=float(uncached.mean()),
        cached_tokens=float(cached.mean()),
        answer_tokens=float(answers.mean()),
        long_prompt_tokens=float(np.quantile(uncached, LONG_PROMPT)),
        arrival_scv=_scv(gaps) if len(gaps) > 1 else 1.0,
        prompt_scv=_scv(uncached),
        lengths=tuple(sorted((prompts + answers).astype(int).tolist())),
    )


def _cached(arrivals: Sequence[Arrival]) -> list[int]:
    """Of each prompt, the tokens of leading blocks that an earlier request had."""
    seen: set[int] = set()
    found = []
    for arrival in arrivals:
        known = 0
        for block in arrival.blocks:
            if block not in seen:
                break
            known += 1
        seen.update(arrival.blocks)
        found.append(min(known * BLOCK_TOKENS, arrival.num_prompt - 1))
    return found


def _scv(values: np.ndarray) -> float:
    mean = float(values.mean())
    return float(values.var()) / mean**2 if mean > 0 else 0.0
