"""Judges changes of roles by what was served before and after them; pure, time is an argument.

The capacity model only predicts. A change, or a few in a row, is a trial: once it has settled, the
share of requests answered within their target is compared with the share before. A worse one is
undone, and the model has to promise more before it may ask for such a change again. Where the
traffic was another before the change there is nothing to compare with: then a share far below what
the model predicts sends the workers back to the former roles for as long as it takes to measure
those, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from router.placing.workload import Workload
from router.roles.measured import Measured, Measurements, alike
from wire.identity import Role, WorkerRef

Prefills = frozenset[WorkerRef]
"""An assignment: the workers that prefill; the others decode."""
ChangeKind = tuple[Role, int]
"""The role that a worker takes, and the worker's kind."""

LEAST_LOSS = 0.03
"""Share of the requests by which an assignment has to be worse, beside the noise of the count."""
NUM_DEVIATIONS = 2.0
DISAPPOINTS = 0.15
"""Share of the requests by which an assignment may stay behind the model's prediction."""
LONGEST_S = 20.0
"""Time after its first change at which a trial that goes on is judged, and after its last one at
which it is given up."""
PATIENCE_S = 60.0
"""Time without a change after which roles that serve too little are compared with the former."""
BLAME = 2.0
"""Multiple of a gain that failed which the model has to promise from then on; of what it had to
promise before, if such a change has failed before."""
HALF_LIFE_S = 300.0
"""Time in which half of a learned error is forgotten: devices and traffic change."""


@dataclass(slots=True)
class _RoleTrial:
    origin: Prefills
    before: Measured | None
    workload: Workload
    began_s: float
    changed_s: float
    gains: dict[ChangeKind, float] = field(default_factory=dict)
    """Errors to learn if the trial is worse than its origin."""
    doubted: dict[ChangeKind, float] = field(default_factory=dict)
    """Errors to learn if it is not worse: those of the changes that it has undone."""


@dataclass(frozen=True, slots=True)
class Situation:
    """The state of a fleet at a decision."""

    present: Prefills
    ready: frozenset[WorkerRef]
    workload: Workload
    predicted: float
    """Requests a second that the present assignment serves, by the model."""
    lifetime_s: float
    """Mean duration of an answer."""
    now: float

    @property
    def expected_share(self) -> float:
        """Share of the requests that is served, by the model."""
        return min(1.0, self.predicted / max(self.workload.requests_per_s, 1e-9))


class Guard:
    """Tells which changes may be made, and which have to be undone."""

    def __init__(self) -> None:
        self.returns_to: Prefills | None = None
        """The assignment to go back to; None where the model decides."""
        self._measurements = Measurements()
        self._trial: _RoleTrial | None = None
        self._last: _RoleTrial | None = None
        """The newest trial whose changes stand."""
        self._errors: dict[ChangeKind, tuple[float, float]] = {}

    @property
    def holds(self) -> bool:
        """Whether roles stay until former ones, which were gone back to, have been measured."""
        return self._trial is not None and bool(self._trial.doubted)

    def error(self, kind: ChangeKind, now: float) -> float:
        """The share by which the model overestimates gains of such changes, as learned."""
        value, since_s = self._errors.get(kind, (0.0, now))
        kept: float = 0.5 ** ((now - since_s) / HALF_LIFE_S)
        return value * kept

    def observe(self, at: Situation, counts: tuple[int, int]) -> None:
        """Enter the sums of requests that have come, and of those that were answered in time."""
        self._measurements.add(counts, at.workload, at.now)
        if self.returns_to is not None and at.present == self.returns_to & at.ready:
            self.returns_to = None
            if self._trial is not None:
                self._trial.changed_s = at.now
        if self.returns_to is not None:
            return
        if self._trial is not None:
            self._judge(self._trial, at)
        elif self._last is not None:
            self._look_back(self._last, at)

    def changed(self, at: Situation, kind: ChangeKind, gain: float) -> None:
        """The model changes one worker of the present assignment, and promises this gain."""
        if self._trial is None or not alike(self._trial.workload, at.workload):
            before = self._measurements.over(at.now, at.lifetime_s)
            self._trial = _RoleTrial(at.present, before, at.workload, at.now, at.now)
        self._trial.changed_s = at.now
        self._trial.gains[kind] = max(gain, self._trial.gains.get(kind, 0.0))

    def _judge(self, trial: _RoleTrial, at: Situation) -> None:
        too_long = at.now > trial.changed_s + at.lifetime_s + LONGEST_S
        if too_long or not alike(trial.workload, at.workload):
            self._trial, self._last = None, trial  # nothing compares with its origin
            return
        since_s = min(trial.changed_s, trial.began_s + LONGEST_S) + at.lifetime_s
        after = self._measurements.over(at.now, at.lifetime_s, since_s)
        if after is None:
            return
        self._trial, self._last = None, trial
        if trial.before is None:
            self._doubt(trial, at, after, at.expected_share - DISAPPOINTS)
        elif _is_worse(after, trial.before):
            self._learn(trial.gains, at.now)
            self.returns_to, self._last = trial.origin, None
        else:
            self._learn(trial.doubted, at.now)
            if trial.doubted or trial.before.share < 1 - LEAST_LOSS:
                self._last = None  # the comparison was one of full workers, and holds

    def _look_back(self, trial: _RoleTrial, at: Situation) -> None:
        """Roles that were chosen for other traffic may not be good for this one. Where the model
        expects as little as is served, that may be its error, too: looked at after a long time."""
        waited = at.now > trial.changed_s + PATIENCE_S
        if waited or not alike(trial.workload, at.workload):
            found = self._measurements.over(at.now, at.lifetime_s)
            if found is not None:
                least = 1 - LEAST_LOSS if waited else at.expected_share - DISAPPOINTS
                self._doubt(trial, at, found, least)

    def _doubt(self, trial: _RoleTrial, at: Situation, after: Measured, least: float) -> None:
        """If less than this share is served, go back to where the trial began, and compare."""
        if after.share >= least or at.present == trial.origin:
            return
        self._trial = _RoleTrial(
            at.present, after, at.workload, at.now, at.now, doubted=trial.gains
        )
        self.returns_to, self._last = trial.origin, None

    def _learn(self, gains: Mapping[ChangeKind, float], now: float) -> None:
        for kind, gain in gains.items():
            learned, _ = self._errors.get(kind, (0.0, now))
            self._errors[kind] = BLAME * max(gain, learned), now


def _is_worse(after: Measured, before: Measured) -> bool:
    """By more than noise."""
    total = after.num + before.num
    share = (after.share * after.num + before.share * before.num) / total
    deviation = math.sqrt(share * (1 - share) * (1 / after.num + 1 / before.num))
    return after.share < before.share - LEAST_LOSS - NUM_DEVIATIONS * deviation
