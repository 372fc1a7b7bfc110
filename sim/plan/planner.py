"""The plan: the cheapest pools of all, and the cheapest of other structures beside them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sim.plan.beliefs import Beliefs
from sim.plan.cheapest import LIKELY, cheapest
from sim.plan.choices import Considered, considered, families, largest
from sim.plan.formula import Formula
from sim.plan.plan_errors import TooMuch
from sim.plan.pool_choice import Needs, PoolFamily, WorkerKind
from sim.plan.traffic_profile import TrafficProfile
from sim.plan.trials import Trial, Trials

LEAST_SAVING, MOST_TRIALS = 0.003, 24
"""Of the search among all pools."""
LEAST_SAVING_OF_OTHERS, MOST_TRIALS_OF_OTHERS = 0.02, 5
"""Of the search within one other structure, which is shown for comparison."""
LOADS = (1.05, 1.1, 1.2, 1.35, 1.5)
"""Multiples of the rate at which headroom is looked for."""

Structure = tuple[str | None, str]
"""Devices of the prefill workers, None where nothing is split, and of the decode workers."""


class Candidate(msgspec.Struct, frozen=True):
    """Pools that the plan shows: their trial at the rate that is needed, and those at more."""

    considered: Considered
    trial: Trial
    headroom: float
    """Share by which the load may grow, as far as it was tried; 0 where the least step was too
    much."""
    first_failure: Trial | None
    """The trial with the least load that failed; None where none did."""


class PlanFound(msgspec.Struct, frozen=True):
    """`candidates` by cost, those that keep the targets first."""

    needs: Needs
    traffic: TrafficProfile
    candidates: tuple[Candidate, ...]
    num_considered: int
    num_trials: int

    @property
    def best(self) -> Candidate:
        return self.candidates[0]


def plan(
    kinds: Sequence[WorkerKind],
    traffic: TrafficProfile,
    needs: Needs,
    trials: Trials,
    num_shown: int = 3,
) -> PlanFound:
    """Search all pools of these kinds. Raises TooMuch where the devices are too few."""
    formula, beliefs = Formula(traffic, needs), Beliefs()
    everything = [each for family in families(kinds) for each in considered(family, formula, needs)]
    if not everything:
        raise TooMuch(_most(kinds, formula, needs))
    best = cheapest(everything, trials, beliefs, needs.requests_per_s, LEAST_SAVING, MOST_TRIALS)
    found = {} if best is None else {_structure(best.choice.family): best}
    for structure in _others(everything, beliefs, needs, set(found), num_shown - len(found)):
        own = [each for each in everything if _structure(each.choice.family) == structure]
        rate = needs.requests_per_s
        trial = cheapest(own, trials, beliefs, rate, LEAST_SAVING_OF_OTHERS, MOST_TRIALS_OF_OTHERS)
        found[structure] = trial or _best_failure(trials, structure)
    estimates = {each.choice: each for each in everything}
    shown = [_candidate(estimates[trial.choice], trial, trials) for trial in found.values()]
    shown.sort(key=_order)
    if not shown[0].trial.passed:
        raise TooMuch(_short(shown, needs))
    return PlanFound(needs, traffic, tuple(shown), len(everything), trials.num_done)


def _order(candidate: Candidate) -> tuple[bool, float, float, bool]:
    """Of equal cost the one with more headroom comes first, or else the one that is not split."""
    choice = candidate.trial.choice
    cost = round(choice.cost, 6)
    return not candidate.trial.passed, cost, -candidate.headroom, choice.family.split


def _structure(family: PoolFamily) -> Structure:
    return (None if family.prefill is None else family.prefill.device), family.decode.device


def _others(
    everything: Sequence[Considered],
    beliefs: Beliefs,
    needs: Needs,
    known: set[Structure],
    count: int,
) -> list[Structure]:
    """Other structures, those first that probably are cheap; unsplit and split ones of the best's
    device come before unlike devices of the same cost."""
    costs: dict[Structure, float] = {}
    for each in everything:
        structure = _structure(each.choice.family)
        if structure in known:
            continue
        chance = beliefs.chance(each.choice, each.estimate, needs.requests_per_s)
        cost = each.choice.cost if chance >= LIKELY else each.choice.cost / max(chance, 1e-3)
        costs[structure] = min(cost, costs.get(structure, cost))
    return sorted(costs, key=lambda structure: costs[structure])[: max(0, count)]


def _best_failure(trials: Trials, structure: Structure) -> Trial:
    """The trial of this structure that came nearest to its targets."""
    own = [each for each in trials.done if _structure(each.choice.family) == structure]
    return max(own, key=lambda trial: (trial.summary.goodput, -trial.choice.cost))


def _candidate(each: Considered, trial: Trial, trials: Trials) -> Candidate:
    """Bisects LOADS, of which larger ones are served less well."""
    if not trial.passed:
        return Candidate(each, trial, 0.0, trial)
    served, failure = 1.0, None
    low, high = 0, len(LOADS)
    while low < high:
        middle = (low + high) // 2
        more = trials.run(each.choice, LOADS[middle])
        if more.passed:
            served, low = LOADS[middle], middle + 1
        else:
            failure, high = more, middle
    return Candidate(each, trial, round(served - 1, 2), failure)


def _most(kinds: Sequence[WorkerKind], formula: Formula, needs: Needs) -> str:
    """The message for limits within which no pools come near the rate."""
    served = [
        (formula.estimate(choice).least.requests_per_s, choice)
        for family in families(kinds)
        if (choice := largest(family, needs)) is not None
    ]
    if not served:
        return "there are fewer devices than the smallest worker has"
    most, choice = max(served, key=lambda pair: pair[0])
    return (
        f"the devices that exist serve at most some {most:.3g} requests/s within the targets "
        f"({choice.label}), and {needs.requests_per_s:g}/s are wanted: allow more devices "
        "(--device NAME:COUNT, --max-gpus), or relax --ttft or --tpot"
    )


def _short(shown: Sequence[Candidate], needs: Needs) -> str:
    """The message for limits within which every trial missed its targets."""
    nearest = max(shown, key=lambda each: each.trial.summary.goodput)
    summary = nearest.trial.summary
    return (
        f"no pools within the limits keep the targets at {needs.requests_per_s:g} requests/s: "
        f"{nearest.trial.choice.label} come nearest, with {summary.ttft_attainment:.1%} of first "
        f"tokens and {summary.tpot_attainment:.1%} of further ones in time, where "
        f"{needs.attainment:.1%} are wanted; allow more devices (--device NAME:COUNT, --max-gpus), "
        "or relax --ttft or --tpot"
    )
