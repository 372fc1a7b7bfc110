"""Finds the cheapest pools that keep the targets with few trials.

The next trial is the one with the largest expected saving: what a choice is cheaper than the best
found, times the probability that it serves. This is the expected improvement of Bayesian
optimization (Jones, Schonlau, Welch 1998), with the formula as its model.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.plan.beliefs import Beliefs
from sim.plan.choices import Considered
from sim.plan.trials import Trial, Trials

LIKELY = 0.5
"""Chance of choices that are tried while none has served."""


def cheapest(
    open_choices: Sequence[Considered],
    trials: Trials,
    beliefs: Beliefs,
    requests_per_s: float,
    least_saving: float,
    most_trials: int,
) -> Trial | None:
    """The trial of the cheapest choice that served, or None.

    Ends after so many trials, or when no expected saving is more than `least_saving`, a share of
    the best one's cost.
    """
    left, best = list(open_choices), None
    for _ in range(most_trials):
        chances = [beliefs.chance(each.choice, each.estimate, requests_per_s) for each in left]
        following = _next(left, chances, best, least_saving)
        if following is None:
            break
        trial = trials.run(following.choice)
        beliefs.learn(trial, following.estimate)
        if trial.passed:
            best = trial
            left = [each for each in left if each.choice.cost < trial.choice.cost]
        else:
            left = [each for each in left if not following.choice.contains(each.choice)]
    return best


def _next(
    left: Sequence[Considered], chances: Sequence[float], best: Trial | None, least_saving: float
) -> Considered | None:
    """The choice to try next; None where that is not worth it. Of equals the first."""
    if not left:
        return None
    if best is not None:
        cost = best.choice.cost
        savings = [
            (cost - each.choice.cost) * chance for each, chance in zip(left, chances, strict=True)
        ]
        most = max(savings)
        return left[savings.index(most)] if most > least_saving * cost else None
    likely = [index for index, chance in enumerate(chances) if chance >= LIKELY]
    if not likely:
        return left[max(range(len(left)), key=lambda index: chances[index])]
    return left[min(likely, key=lambda index: (left[index].choice.cost, -chances[index]))]
