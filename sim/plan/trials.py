"""Simulated trials of pools, each at most once, and no longer than their outcome is open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from sim.evaluate import evaluate
from sim.plan.plan_errors import BadNeeds
from sim.plan.pool_choice import Needs, PoolChoice
from sim.plan.traffic_profile import TrafficProfile
from sim.summary import Summary
from sim.traces import Arrival, at_rate

LEAST_REQUESTS, MOST_REQUESTS = 500, 4000
LEAST_SPAN_S = 20.0
"""Least virtual time in which requests arrive, while MOST_REQUESTS allow it."""
ANSWERS_IN_SPAN = 3.0
"""The same in durations of an answer: before the first have ended, workers are not full."""
FIRST_PARTS = (0.15, 0.4)
"""Shares of the requests after which a trial without a chance ends."""


Serve = Callable[[PoolChoice, Sequence[Arrival]], Summary]
"""Serves requests with pools, and says how well."""


class Trial(msgspec.Struct, frozen=True):
    """The outcome of serving the trace with these pools at this rate.

    It ended early where `summary` is of the first requests alone; then it has missed its targets.
    """

    choice: PoolChoice
    requests_per_s: float
    summary: Summary
    passed: bool
    """Both targets were kept by the share of requests that has to."""


class Trials:
    """Serves one trace with one choice after the other, in virtual time unless `serve` is given;
    deterministic by seed.

    `on_trial` is told of each trial, for a progress bar.
    """

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        needs: Needs,
        seed: int = 0,
        on_trial: Callable[[Trial], None] = lambda trial: None,
        serve: Serve | None = None,
    ) -> None:
        self.num_simulated = 0
        """Requests simulated so far."""
        self.num_done = 0
        self._arrivals = list(arrivals)
        self._needs = needs
        self._on_trial = on_trial
        self._serve = serve or partial(simulate, needs=needs, seed=seed)
        self._found: dict[tuple[PoolChoice, float], Trial] = {}

    @property
    def done(self) -> list[Trial]:
        return list(self._found.values())

    def run(self, choice: PoolChoice, load: float = 1.0) -> Trial:
        """Serve the trace at `load` times the rate that is needed."""
        rate = load * self._needs.requests_per_s
        key = choice, rate
        if key not in self._found:
            self._found[key] = self._run(choice, rate)
            self.num_done += 1
            self._on_trial(self._found[key])
        return self._found[key]

    def goodput(self, choice: PoolChoice, load: float) -> float:
        """Share of the requests within both targets, of the whole trace at that load."""
        arrivals = at_rate(self._arrivals, load * self._needs.requests_per_s)
        return self._served(choice, arrivals).goodput

    def _run(self, choice: PoolChoice, rate: float) -> Trial:
        arrivals = at_rate(self._arrivals, rate)
        num_missable = (1 - self._needs.attainment) * len(arrivals)
        for part in FIRST_PARTS:
            first = arrivals[: max(2, int(part * len(arrivals)))]
            summary = self._served(choice, first)
            if (1 - _kept(summary)) * len(first) > num_missable:
                return Trial(choice, rate, summary, passed=False)
        summary = self._served(choice, arrivals)
        return Trial(choice, rate, summary, _kept(summary) >= self._needs.attainment)

    def _served(self, choice: PoolChoice, arrivals: Sequence[Arrival]) -> Summary:
        self.num_simulated += len(arrivals)
        return self._serve(choice, arrivals)


def simulate(
    choice: PoolChoice, arrivals: Sequence[Arrival], needs: Needs, seed: int = 0
) -> Summary:
    """Serve the requests with these pools in virtual time."""
    targets, price = needs.targets, choice.price_per_hour
    pools = choice.pools(targets)
    return evaluate(pools, choice.policy, arrivals, targets, seed, price_per_hour=price)


def num_requests(traffic: TrafficProfile, needs: Needs) -> int:
    """Requests of a trial: enough that workers are full for most of it."""
    answer_s = traffic.answer_tokens * needs.tpot_s
    span_s = max(LEAST_SPAN_S, ANSWERS_IN_SPAN * answer_s)
    wanted = int(span_s * needs.requests_per_s)
    return min(max(wanted, LEAST_REQUESTS), MOST_REQUESTS)


def window(arrivals: Sequence[Arrival], count: int) -> list[Arrival]:
    """The first `count` requests of a trace. Raises BadNeeds where they do not tell a rate."""
    chosen = list(arrivals[:count])
    if len(chosen) < 2 or chosen[-1].at_s <= chosen[0].at_s:
        raise BadNeeds("the trace needs at least two requests, at different times")
    return chosen


def _kept(summary: Summary) -> float:
    return min(summary.ttft_attainment, summary.tpot_attainment)
