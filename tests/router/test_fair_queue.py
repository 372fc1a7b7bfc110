"""Who waits, and who is next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.queueing.fair_queue import FairQueue, Waiter

pytestmark = pytest.mark.quick


def waiter(key: str, tenant: str = "a", **options: float) -> Waiter:
    return Waiter(key=key, tenant=tenant, **{"work_s": 1.0, **options})  # type: ignore[arg-type]


def drained(queue: FairQueue) -> list[str]:
    """In the order in which they would be served, each charged."""
    keys = []
    while (first := queue.first()) is not None:
        queue.remove(first.key)
        queue.charge(first.tenant, first.work_s)
        keys.append(first.key)
    return keys


def test_the_nearest_deadline_goes_first_and_none_goes_last() -> None:
    queue = FairQueue()
    for key, due in (("late", 9.0), ("soon", 1.0), ("never", None), ("next", 2.0)):
        queue.add(Waiter(key=key, target_s=due))
    assert drained(queue) == ["soon", "next", "late", "never"]


def test_a_more_urgent_class_goes_before_any_deadline() -> None:
    queue = FairQueue()
    queue.add(waiter("normal", target_s=1.0))
    queue.add(waiter("urgent", priority=-1, target_s=9.0))
    assert drained(queue) == ["urgent", "normal"]


def test_tenants_take_turns_by_work_and_not_by_requests() -> None:
    queue = FairQueue()
    for number in range(6):
        queue.add(waiter(f"heavy{number}", "heavy", work_s=2.0))
    for number in range(3):
        queue.add(waiter(f"light{number}", "light", work_s=1.0))
    order = drained(queue)
    assert order.index("light2") <= 5
    assert sorted(order) == sorted(
        [f"heavy{n}" for n in range(6)] + [f"light{n}" for n in range(3)]
    )


def test_idleness_earns_nothing() -> None:
    queue = FairQueue()
    for number in range(10):
        queue.add(waiter(f"busy{number}", "busy"))
    for _ in range(5):
        first = queue.first()
        assert first is not None
        queue.remove(first.key)
        queue.charge(first.tenant, first.work_s)
    for number in range(5):
        queue.add(waiter(f"back{number}", "back"))
    turns = [key[:4] for key in drained(queue)]
    assert 4 <= turns[:8].count("back") <= 5


def test_others_could_go_instead_of_the_first() -> None:
    queue = FairQueue()
    for number in range(3):
        queue.add(waiter(f"a{number}", "a", target_s=float(number)))
    queue.add(waiter("b", "b", target_s=0.5))
    queue.charge("b", 1.0)
    assert [each.key for each in queue.foremost(2)] == ["a0", "a1"]
    assert [each.key for each in queue.foremost(9)] == ["a0", "a1", "a2", "b"]


def test_a_newcomer_is_before_those_that_are_due_later() -> None:
    queue = FairQueue()
    for key, due in (("soon", 1.0), ("same", 2.0), ("late", 3.0), ("never", None)):
        queue.add(Waiter(key=key, target_s=due))
    before, behind = queue.lane(Waiter(key="new")).part(2.0)
    assert [each.key for each in before] == ["soon", "same"]
    assert [each.key for each in behind] == ["late", "never"]
    assert queue.lane(Waiter(key="new", tenant="other")).part(2.0) == ([], [])


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.integers(-1, 1), st.none() | st.floats(0, 10), st.booleans()
        )
    )
)
def test_everyone_leaves_once(
    added: list[tuple[str, int, float | None, bool]],
) -> None:
    queue = FairQueue()
    for number, (tenant, priority, due, leaves) in enumerate(added):
        key = str(number)
        queue.add(Waiter(key=key, tenant=tenant, priority=priority, target_s=due, work_s=number))
        if leaves:
            assert queue.remove(key) is not None
            assert queue.remove(key) is None
    stayed = {str(number) for number, (*_, leaves) in enumerate(added) if not leaves}
    assert len(queue) == len(stayed)
    assert set(drained(queue)) == stayed
    assert list(queue.lanes()) == []
