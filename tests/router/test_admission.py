"""Who is served, who waits, and who need not try."""

from __future__ import annotations

import pytest

from router.placing.placement_request import ALWAYS_QUEUED, HOLD_S, Placement
from router.queueing.admission import LEAST_RETRY_S, Admission, Verdict
from router.queueing.fair_queue import Waiter
from wire.identity import WorkerRef

pytestmark = pytest.mark.quick

BUSY = {"queue_s": HOLD_S * 2, "num_queued": ALWAYS_QUEUED, "queued_steps": 3.0}


def way(ttft_s: float = 0.5, **options: float) -> Placement:
    return Placement(WorkerRef("p", 1), None, ttft_s, **options)


def waiter(key: str = "r", tenant: str = "", **options: float) -> Waiter:
    return Waiter(key=key, tenant=tenant, **{"work_s": 0.5, "target_s": 2.0, **options})  # type: ignore[arg-type]


def arrive(admission: Admission, found: Placement, who: Waiter | None = None) -> Verdict:
    return admission.arrive(who or waiter(), found, num_workers=1, now=0.0).verdict


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        pytest.param(way(), Verdict.ADMIT, id="in time"),
        pytest.param(way(ttft_s=2.0), Verdict.REFUSE, id="in time, if nothing went wrong"),
        pytest.param(way(ttft_s=9.0), Verdict.REFUSE, id="it would be too late"),
        pytest.param(way(**BUSY), Verdict.WAIT, id="every worker has enough to do"),
        pytest.param(
            way(queue_s=9.0, num_queued=1.0), Verdict.ADMIT, id="a worker would run dry behind one"
        ),
        pytest.param(
            way(**{**BUSY, "queued_steps": 0.9}), Verdict.ADMIT, id="a step would be partly empty"
        ),
        pytest.param(way(relief_s=0.4), Verdict.WAIT, id="no worker is fast enough yet"),
        pytest.param(way(relief_s=4.0), Verdict.REFUSE, id="no worker will be fast enough in time"),
    ],
)
def test_a_request_is_judged_by_both_of_its_targets(found: Placement, verdict: Verdict) -> None:
    admission = Admission(max_queued=10)
    assert arrive(admission, found) is verdict
    assert len(admission.queue) == (verdict is Verdict.WAIT)


def test_a_refusal_says_when_to_come_back() -> None:
    admission = Admission(10)
    judged = admission.arrive(waiter(), way(ttft_s=9.0), 1, now=0.0)
    assert judged.retry_after_s == pytest.approx(admission.forecast.safely(9.0) - 2.0)
    assert "9 s" in judged.cause


def test_what_waits_before_it_makes_a_request_too_late() -> None:
    admission = Admission(10)
    for number in range(3):
        assert arrive(admission, way(**BUSY), waiter(f"w{number}", "heavy")) is Verdict.WAIT
    assert arrive(admission, way(**BUSY), waiter("late", "heavy")) is Verdict.REFUSE
    assert arrive(admission, way(**BUSY), waiter("other", "light")) is Verdict.WAIT


def test_nobody_is_let_in_before_others_of_its_tenant_who_would_then_be_too_late() -> None:
    admission = Admission(10)
    assert arrive(admission, way(**BUSY), waiter("first", work_s=1.0)) is Verdict.WAIT
    hasty = waiter("hasty", work_s=0.9, target_s=1.2)
    assert arrive(admission, way(**BUSY), hasty) is Verdict.REFUSE
    assert arrive(admission, way(**BUSY), waiter("small", work_s=0.1, target_s=1.2)) is Verdict.WAIT


def test_room_is_left_for_what_other_tenants_will_bring() -> None:
    """A heavy tenant's queue is as long as its deadlines allow, with what a light one takes of the
    workers in the meantime."""
    lengths = []
    for brought in (False, True):
        admission = Admission(100)
        admission.queue.charge("heavy", 100.0)
        for number in range(20 * brought):
            arrive(admission, way(), waiter(f"l{number}", "light", work_s=0.2))
        while arrive(admission, way(**BUSY), waiter(f"h{len(admission.queue)}", "heavy")) is (
            Verdict.WAIT
        ):
            pass
        lengths.append(len(admission.queue))
    assert 0 < lengths[1] < lengths[0]


def test_nobody_overtakes_who_waits_but_the_more_urgent() -> None:
    admission = Admission(10)
    assert arrive(admission, way(**BUSY), waiter("first")) is Verdict.WAIT
    assert arrive(admission, way(), waiter("second")) is Verdict.WAIT
    assert arrive(admission, way(), waiter("urgent", priority=-1)) is Verdict.ADMIT


def test_the_first_in_the_queue_goes_when_there_is_room() -> None:
    admission = Admission(10)
    arrive(admission, way(**BUSY))
    first = admission.queue.first()
    assert first is not None
    assert admission.again(first, way(**BUSY), 0.1).verdict is Verdict.WAIT
    assert admission.again(first, way(), 0.2).verdict is Verdict.ADMIT
    assert len(admission.queue) == 0


def test_who_waits_for_one_worker_lets_others_pass_to_another() -> None:
    admission = Admission(10)
    workers = {"choosy": "big", "same": "big", "other": "small"}
    for key in workers:
        arrive(admission, way(**BUSY), waiter(key))
    wanted = {
        key: Placement(WorkerRef(worker, 1), None, 0.5, **(BUSY if key == "choosy" else {}))
        for key, worker in workers.items()
    }
    turn = admission.next(lambda each: wanted[each.key], now=0.1)
    assert turn is not None
    assert turn.waiter.key == "other"
    assert turn.found == wanted["other"]
    assert admission.next(lambda each: wanted[each.key], now=0.1) is None
    assert len(admission.queue) == 2


def test_where_nobody_can_serve_it_who_waits_is_let_go_to_hear_why() -> None:
    admission = Admission(10)
    arrive(admission, way(**BUSY))
    turn = admission.next(lambda each: None, now=0.1)
    assert turn is not None
    assert turn.found is None
    assert turn.judged.verdict is Verdict.ADMIT
    assert len(admission.queue) == 0


def test_who_was_let_in_is_served_late_rather_than_refused_unless_it_is_very_late() -> None:
    for now, verdict in ((2.5, Verdict.ADMIT), (4.1, Verdict.REFUSE)):
        admission = Admission(10)
        arrive(admission, way(**BUSY))
        first = admission.queue.first()
        assert first is not None
        assert admission.again(first, way(), now).verdict is verdict
        assert len(admission.queue) == 0


def test_without_targets_only_a_full_queue_refuses() -> None:
    admission = Admission(max_queued=3)
    slow = way(ttft_s=500.0, queue_s=400.0, num_queued=9.0, queued_steps=40.0)
    verdicts = []
    for number in range(4):
        judged = admission.arrive(Waiter(key=f"w{number}", work_s=100.0), slow, 1, 0.0)
        verdicts.append(judged.verdict)
    assert verdicts == [Verdict.WAIT] * 3 + [Verdict.REFUSE]
    assert judged.reason == "queue_full"
    assert judged.retry_after_s > LEAST_RETRY_S
    assert len(admission.queue) == 3


def test_one_tenant_cannot_fill_the_queue_and_who_waits_need_not_leave() -> None:
    admission = Admission(max_queued=20)
    slow = way(ttft_s=50.0, **BUSY)
    for number in range(30):
        admission.arrive(Waiter(key=f"h{number}", tenant="heavy"), slow, 1, 0.0)
    num_heavy = len(admission.queue)
    assert 10 <= num_heavy < 20
    light = admission.arrive(Waiter(key="light", tenant="light"), slow, 1, 0.0)
    urgent = admission.arrive(Waiter(key="urgent", tenant="heavy", priority=-1), slow, 1, 0.0)
    assert light.verdict is urgent.verdict is Verdict.WAIT
    assert len(admission.queue) == num_heavy + 2
