"""Who is served, who waits, and who need not try."""

from __future__ import annotations

import pytest

from router.placing.placement import Placement, Slo
from router.queueing.admission import HOLD_S, Admission, Verdict
from router.queueing.fair_queue import Waiter
from wire.identity import WorkerRef

SLO = Slo(ttft_s=2.0, tpot_s=0.03)


def way(
    ttft_s: float = 0.5, tpot_s: float = 0.01, queue_s: float = 0.0, num_decoding: float = 1.0
) -> Placement:
    worker = WorkerRef("p", 1)
    return Placement(worker, None, ttft_s, tpot_s, 0.5, queue_s, num_decoding=num_decoding)


def waiter(key: str = "r", tenant: str = "", **options: float) -> Waiter:
    return Waiter(key=key, tenant=tenant, **{"work_s": 0.5, "deadline_s": 2.0, **options})  # type: ignore[arg-type]


def arrive(admission: Admission, found: Placement, who: Waiter | None = None) -> Verdict:
    return admission.arrive(who or waiter(), SLO, found, num_workers=1, now=0.0).verdict


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        pytest.param(way(), Verdict.ADMIT, id="in time"),
        pytest.param(way(ttft_s=2.1), Verdict.REFUSE, id="it would be a little late"),
        pytest.param(way(ttft_s=9.0), Verdict.REFUSE, id="it would be too late"),
        pytest.param(way(queue_s=HOLD_S * 2), Verdict.WAIT, id="every worker has enough to do"),
        pytest.param(way(tpot_s=0.04), Verdict.WAIT, id="no decode worker is fast enough now"),
        pytest.param(
            way(tpot_s=0.04, num_decoding=0.0), Verdict.ADMIT, id="waiting makes no idle one faster"
        ),
    ],
)
def test_a_request_is_judged_by_both_of_its_targets(found: Placement, verdict: Verdict) -> None:
    admission = Admission(max_queued=10)
    assert arrive(admission, found) is verdict
    assert len(admission.queue) == (verdict is Verdict.WAIT)


def test_a_refusal_says_when_to_come_back() -> None:
    judged = Admission(10).arrive(waiter(), SLO, way(ttft_s=9.0), 1, now=0.0)
    assert judged.retry_after_s == pytest.approx(7.0)
    assert "9 s" in judged.cause


def test_what_waits_before_it_makes_a_request_too_late() -> None:
    admission = Admission(10)
    busy = way(queue_s=1.0)
    for number in range(8):
        heavy = waiter(f"w{number}", "heavy", deadline_s=9.0)
        assert arrive(admission, busy, heavy) is Verdict.WAIT
    assert arrive(admission, busy, waiter("late", "heavy")) is Verdict.REFUSE
    assert arrive(admission, busy, waiter("other", "light")) is Verdict.WAIT


def test_nobody_overtakes_who_waits_but_the_more_urgent() -> None:
    admission = Admission(10)
    assert arrive(admission, way(queue_s=1.0), waiter("first")) is Verdict.WAIT
    assert arrive(admission, way(), waiter("second")) is Verdict.WAIT
    assert arrive(admission, way(), waiter("urgent", priority=-1)) is Verdict.ADMIT


def test_the_first_in_the_queue_goes_when_there_is_room() -> None:
    admission = Admission(10)
    arrive(admission, way(queue_s=1.0))
    first = admission.queue.first()
    assert first is not None
    assert admission.again(first, SLO, way(queue_s=1.0), 0.1).verdict is Verdict.WAIT
    assert admission.again(first, SLO, way(), 0.2).verdict is Verdict.ADMIT
    assert len(admission.queue) == 0


def test_who_would_be_too_late_even_alone_leaves_the_queue() -> None:
    admission = Admission(10)
    arrive(admission, way(queue_s=1.0))
    assert admission.too_late(1.4) == []
    assert [late.key for late in admission.too_late(1.6)] == ["r"]
    assert len(admission.queue) == 0


def test_without_targets_only_a_full_queue_refuses() -> None:
    admission = Admission(max_queued=3)
    nothing = Slo()
    for number in range(3):
        who = Waiter(key=f"w{number}", work_s=100.0)
        judged = admission.arrive(who, nothing, way(ttft_s=500.0, queue_s=400.0), 1, 0.0)
        assert judged.verdict is Verdict.WAIT
    assert admission.overflow() is None
    admission.arrive(Waiter(key="w3", work_s=100.0), nothing, way(queue_s=400.0), 1, 0.0)
    gone = admission.overflow()
    assert gone is not None
    assert len(admission.queue) == 3


def test_a_full_queue_lets_a_light_tenant_in() -> None:
    admission = Admission(max_queued=3)
    for number in range(3):
        arrive(admission, way(queue_s=1.0), waiter(f"h{number}", "heavy", deadline_s=50.0))
    arrive(admission, way(queue_s=1.0), waiter("light", "light", deadline_s=60.0))
    gone = admission.overflow()
    assert gone is not None
    assert gone.tenant == "heavy"
