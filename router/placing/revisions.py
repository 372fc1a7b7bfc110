"""Which revision of a model serves while workers of several are there; pure, time is an argument.

Workers whose weights agree are a *revision*. Revisions live beside each other, and one of them
*serves*: new requests go to its workers. A revision is *whole* when it has a ready worker of every
role that any revision here has shown: of two pools, one of both; of a pool alone, one of it.

The newest whole revision serves. While none is whole, the one that served goes on as long as one of
its workers is ready, and then the newest that has any. So an upgrade goes over once, when the new
revision is whole, and an operator who rolls back needs to say nothing.

A revision that ceased to be whole while it served, so that an older one took its place, comes back
only after it has been whole for a while, longer each time: workers that crash again and again do
not draw the traffic to and fro.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import msgspec

from wire.identity import Role, WorkerRef

FIRST_PROBATION_S, LONGEST_PROBATION_S = 30.0, 600.0
"""How long a revision must be whole to serve again, after it failed for the first time; doubled for
each further time."""


class RevisionView(msgspec.Struct, frozen=True, kw_only=True):
    """One revision, for people."""

    revision: str
    serves: bool
    num_ready: dict[Role, int]
    """Ready workers by role."""


@dataclass(slots=True)
class _RevisionWorker:
    role: Role
    ready: bool = False


@dataclass(slots=True)
class _Revision:
    """The state of one revision that has workers."""

    number: int
    """Revisions are numbered as they are first seen."""
    started_at: float
    """When the first of its workers started, by the cluster's clocks: newer revisions have more."""
    workers: dict[WorkerRef, _RevisionWorker] = field(default_factory=dict)
    ready: Counter[Role] = field(default_factory=Counter)
    shown: set[Role] = field(default_factory=set)
    """Roles of workers that were ready at any time."""
    whole_since: float | None = None
    num_failures: int = 0

    @property
    def any_ready(self) -> bool:
        return self.ready.total() > 0

    @property
    def age(self) -> tuple[float, int]:
        """Orders revisions, the oldest first."""
        return self.started_at, self.number

    def is_trusted(self, now: float) -> bool:
        """Whether the revision is whole, and has been for as long as its failures ask."""
        if self.whole_since is None:
            return False
        if self.num_failures == 0:
            return True
        probation_s = FIRST_PROBATION_S * 2.0 ** min(10, self.num_failures - 1)
        return now >= self.whole_since + min(LONGEST_PROBATION_S, probation_s)


class Revisions:
    """Told of every worker; `look` says which revision serves from then on."""

    def __init__(self) -> None:
        self.serving: str | None = None
        """None until the first worker comes. It stays when its last worker leaves, until another
        revision can serve."""
        self._known: dict[str, _Revision] = {}
        self._num_seen = 0

    def __contains__(self, revision: str) -> bool:
        return revision in self._known

    def __len__(self) -> int:
        return len(self._known)

    def add(self, ref: WorkerRef, role: Role, revision: str, started_at: float) -> None:
        """A worker that is not ready yet."""
        known = self._known.get(revision)
        if known is None:
            self._num_seen += 1
            known = self._known[revision] = _Revision(self._num_seen, started_at)
        known.started_at = min(known.started_at, started_at)
        known.workers[ref] = _RevisionWorker(role)

    def set_ready(self, ref: WorkerRef, revision: str, ready: bool) -> None:
        """Note whether a worker is ready; an unknown worker is ignored."""
        known = self._known.get(revision)
        worker = None if known is None else known.workers.get(ref)
        if known is None or worker is None or worker.ready is ready:
            return
        worker.ready = ready
        known.ready[worker.role] += 1 if ready else -1
        if ready:
            known.shown.add(worker.role)

    def remove(self, ref: WorkerRef, revision: str) -> None:
        """Remove a worker; a revision without workers is forgotten."""
        self.set_ready(ref, revision, False)
        known = self._known.get(revision)
        if known is not None and known.workers.pop(ref, None) is not None and not known.workers:
            del self._known[revision]

    def look(self, now: float) -> str | None:
        """The revision that serves from now on. Call it after every change, and every second or so
        while there are several."""
        self._note_whole(now)
        chosen = self._choose(now)
        if chosen is not None and chosen != self.serving:
            self._note_failure(chosen)
            self.serving = chosen
        return self.serving

    def views(self) -> list[RevisionView]:
        """The oldest first."""
        by_age = sorted(self._known.items(), key=lambda item: item[1].age)
        return [
            RevisionView(
                revision=name,
                serves=name == self.serving,
                num_ready={role: known.ready[role] for role in Role},
            )
            for name, known in by_age
        ]

    def _note_whole(self, now: float) -> None:
        wanted = {role for known in self._known.values() for role in known.shown}
        for known in self._known.values():
            whole = known.any_ready and all(known.ready[role] for role in wanted)
            if not whole:
                known.whole_since = None
            elif known.whole_since is None:
                known.whole_since = now

    def _choose(self, now: float) -> str | None:
        """The revision that should serve now; None while no revision has a ready worker."""
        serving = None if self.serving is None else self._known.get(self.serving)
        whole = {name: it for name, it in self._known.items() if it.whole_since is not None}
        trusted = [name for name, it in whole.items() if it is serving or it.is_trusted(now)]
        if whole:
            return self._newest(trusted or list(whole))
        if serving is not None and serving.any_ready:
            return self.serving
        return self._newest([name for name, it in self._known.items() if it.any_ready])

    def _newest(self, names: list[str]) -> str | None:
        return max(names, key=lambda name: self._known[name].age, default=None)

    def _note_failure(self, chosen: str) -> None:
        """The serving revision gives way to an older one: it has failed."""
        serving = None if self.serving is None else self._known.get(self.serving)
        if serving is not None and self._known[chosen].age < serving.age:
            serving.num_failures += 1
