"""Which revision serves, for every history of workers that come, get ready, drain and leave."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.placing.revisions import FIRST_PROBATION_S, LONGEST_PROBATION_S, Revisions
from wire.identity import Role, WorkerRef

pytestmark = pytest.mark.quick

OLD, NEW = "old", "new"
STARTED = {OLD: 100.0, NEW: 200.0, "newest": 300.0}
ROLES = {"p": Role.PREFILL, "d": Role.DECODE}


@dataclass
class Scene:
    """Workers called `old.p0` and so on: their revision, their role, and a number."""

    revisions: Revisions = field(default_factory=Revisions)
    now: float = 0.0

    def ready(self, *names: str) -> str | None:
        for name in names:
            self.join(name)
            self.revisions.set_ready(_ref(name), _revision(name), True)
            self.revisions.look(self.now)
        return self.revisions.serving

    def join(self, name: str) -> str | None:
        revision = _revision(name)
        role = ROLES[name.partition(".")[2][0]]
        self.revisions.add(_ref(name), role, revision, STARTED[revision])
        return self.revisions.look(self.now)

    def drain(self, name: str) -> str | None:
        self.revisions.set_ready(_ref(name), _revision(name), False)
        return self.revisions.look(self.now)

    def leave(self, *names: str) -> str | None:
        for name in names:
            self.revisions.remove(_ref(name), _revision(name))
            self.revisions.look(self.now)
        return self.revisions.serving

    def crash_and_return(self, name: str) -> str | None:
        self.leave(name)
        return self.ready(name)


def _ref(name: str) -> WorkerRef:
    return WorkerRef(name, 1)


def _revision(name: str) -> str:
    return name.partition(".")[0]


def test_a_new_revision_waits_until_it_has_a_whole_pair() -> None:
    scene = Scene()
    assert scene.ready("old.p0", "old.d0") == OLD
    assert scene.ready("new.d0", "new.d1") == OLD
    assert scene.join("new.p0") == OLD, "it has joined, and is not ready"
    assert scene.ready("new.p0") == NEW


def test_a_model_of_one_pool_goes_over_with_its_first_worker() -> None:
    scene = Scene()
    assert scene.ready("old.d0", "old.d1") == OLD
    assert scene.ready("new.d0") == NEW


def test_pools_of_one_worker_each_are_replaced_without_a_moment_in_which_nobody_serves() -> None:
    scene = Scene()
    scene.ready("old.p0", "old.d0")
    assert scene.drain("old.d0") == OLD
    assert scene.leave("old.d0") == OLD
    assert scene.ready("new.d0") == OLD, "neither is whole"
    assert scene.drain("old.p0") == NEW, "nobody else is ready"
    scene.leave("old.p0")
    assert scene.ready("new.p0") == NEW
    assert OLD not in scene.revisions


def test_a_rollback_of_a_complete_upgrade_is_an_upgrade() -> None:
    scene = Scene()
    scene.ready("new.p0", "new.d0")
    assert scene.ready("newest.p0") == NEW
    assert scene.ready("newest.d0") == "newest", "its workers started later, whatever their weights"


def test_a_rollback_half_way_goes_back_when_the_new_revision_is_not_whole_any_more() -> None:
    scene = Scene()
    scene.ready("old.p0", "old.d0", "old.d1", "new.p0", "new.d0")
    assert scene.revisions.serving == NEW
    assert scene.drain("new.p0") == OLD
    assert scene.leave("new.p0", "new.d0") == OLD


def test_an_old_worker_that_comes_back_draws_no_traffic() -> None:
    scene = Scene()
    scene.ready("old.p0", "old.d0", "new.p0", "new.d0")
    for name in ("old.p0", "old.d0", "old.d1"):
        assert scene.crash_and_return(name) == NEW


def test_a_new_revision_that_crashes_again_and_again_is_on_probation_longer_each_time() -> None:
    scene = Scene()
    scene.ready("old.p0", "old.d0", "new.p0", "new.d0")
    waited = []
    for _ in range(8):
        assert scene.leave("new.d0") == OLD
        assert scene.ready("new.d0") == OLD
        began = scene.now
        while scene.revisions.look(scene.now) == OLD:
            scene.now += 1.0
        waited.append(scene.now - began)
    assert waited[:3] == [FIRST_PROBATION_S * 2**n for n in range(3)]
    assert waited[-1] == LONGEST_PROBATION_S


def test_a_revision_on_probation_serves_when_nobody_else_can() -> None:
    scene = Scene()
    scene.ready("old.p0", "old.d0", "new.p0", "new.d0")
    scene.crash_and_return("new.d0")
    assert scene.revisions.serving == OLD
    assert scene.leave("old.p0", "old.d0") == NEW


def test_a_new_shape_of_pools_serves_once_the_old_one_is_gone() -> None:
    scene = Scene()
    scene.ready("old.p0", "old.d0")
    assert scene.ready("new.d0", "new.d1") == OLD
    assert scene.leave("old.d0") == OLD
    assert scene.leave("old.p0") == NEW


def test_what_people_are_told() -> None:
    scene = Scene()
    scene.ready("new.d0", "old.d0")
    scene.join("new.p0")
    assert [(it.revision, it.serves, it.num_ready) for it in scene.revisions.views()] == [
        (OLD, False, {Role.PREFILL: 0, Role.DECODE: 1}),
        (NEW, True, {Role.PREFILL: 0, Role.DECODE: 1}),
    ]


NAMES = [f"{name}.{role}{n}" for name in STARTED for role in ROLES for n in range(2)]
EVENTS = st.lists(
    st.tuples(st.sampled_from(["join", "ready", "drain", "leave"]), st.sampled_from(NAMES)),
    max_size=60,
)


@dataclass
class Model:
    """What is true of the workers, told without the object under test."""

    here: dict[str, bool] = field(default_factory=dict)
    """Ready or not."""
    shown: dict[str, set[str]] = field(default_factory=dict)

    def do(self, event: str, name: str) -> None:
        revision = _revision(name)
        if event in ("join", "ready"):
            self.here.setdefault(name, False)
            self.shown.setdefault(revision, set())
        if event in ("ready", "drain") and name in self.here:
            self.here[name] = event == "ready"
        if event == "ready":
            self.shown[revision].add(_role(name))
        if event == "leave":
            self.here.pop(name, None)
            if revision not in set(map(_revision, self.here)):
                self.shown.pop(revision, None)

    def able(self) -> dict[str, set[str]]:
        """Roles that are ready, by revision; those with none are left out."""
        found: dict[str, set[str]] = {}
        for name in (name for name, ready in self.here.items() if ready):
            found.setdefault(_revision(name), set()).add(_role(name))
        return found

    def whole(self) -> list[str]:
        wanted = set().union(*self.shown.values()) if self.shown else set()
        return [revision for revision, roles in self.able().items() if roles >= wanted]


def _role(name: str) -> str:
    return name.partition(".")[2][0]


@given(EVENTS)
def test_whatever_happens_somebody_who_can_serves(events: list[tuple[str, str]]) -> None:
    scene, model = Scene(), Model()
    for event, name in events:
        before = scene.revisions.serving
        if event in ("join", "ready") or name in model.here:
            getattr(scene, event)(name)
        model.do(event, name)
        serving, able, whole = scene.revisions.serving, model.able(), model.whole()
        if able:
            assert serving in able
        if whole:
            assert serving in whole, "a whole revision goes before one that is not"
        if serving != before and before in able:
            assert serving in whole, "only a whole revision takes over from ready workers"
        assert set(map(_revision, model.here)) == {it.revision for it in scene.revisions.views()}


@given(st.sets(st.sampled_from(NAMES)), st.randoms(use_true_random=False))
def test_routers_that_see_the_same_workers_agree_in_whatever_order_they_came(
    names: set[str], random: object
) -> None:
    order = sorted(names)
    first = Scene()
    first.ready(*order)
    random.shuffle(order)  # type: ignore[attr-defined]
    second = Scene()
    second.ready(*order)
    model = Model()
    for name in order:
        model.do("ready", name)
    first.now = second.now = LONGEST_PROBATION_S + 1
    served = {scene.revisions.look(scene.now) for scene in (first, second)}
    if model.whole():
        assert served == {max(model.whole(), key=STARTED.__getitem__)}


def test_every_order_of_an_upgrade_goes_over_once_and_never_back() -> None:
    """Two pools of two workers are replaced one by one, each pool by itself."""
    for picks in _orders():
        scene, served = Scene(), [OLD]
        scene.ready("old.p0", "old.p1", "old.d0", "old.d1")
        taken = dict.fromkeys(ROLES, 0)
        for role in picks:
            number, comes = divmod(taken[role], 2)
            taken[role] += 1
            if comes:
                scene.ready(f"new.{role}{number}")
            else:
                scene.leave(f"old.{role}{number}")
            served.append(scene.revisions.serving or "nobody")
        changes = [after for before, after in itertools.pairwise(served) if before != after]
        assert changes == [NEW], picks


def _orders() -> list[str]:
    """All ways to interleave the four steps of each of two pools."""
    return [
        "".join("p" if at in prefill else "d" for at in range(8))
        for prefill in itertools.combinations(range(8), 4)
    ]
