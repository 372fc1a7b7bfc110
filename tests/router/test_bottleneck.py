"""Where the bottleneck is: the stage that binds, what one more worker gives, and the sentences."""

from __future__ import annotations

import pytest

from router.config import Roles
from router.placing.placement_request import Split
from router.placing.workload import Workload
from router.roles.activity import LinkActivity
from router.roles.attainment import Attainment, TargetCount
from router.roles.bottleneck import Bottleneck, Sharing, Stage, find_bottleneck, sharing_of
from router.roles.model_status import (
    ControllerView,
    ModelStatus,
    QueueView,
    TrafficView,
    WorkerView,
)
from router.roles.sentences import sentences
from router.roles.watcher import link_load
from tests.router.ledgers import Scene
from tests.router.test_roles import COSTS, fleet
from wire.identity import Role, WorkerRef
from wire.reports import LinkReport

pytestmark = pytest.mark.quick

NO_QUEUE = QueueView(num_in_router=0, num_prompts=0, prompt_tokens=0, prompt_s=0.0)


def workload(prompt: int, answer: int, per_s: float, tpot_s: float | None = 9e-3) -> Workload:
    return Workload(
        num_requests=100,
        requests_per_s=per_s,
        uncached_tokens=prompt,
        cached_tokens=0,
        answer_tokens=answer,
        tpot_s=tpot_s,
    )


def found(
    made: Scene,
    comes: Workload,
    sharing: Sharing = Sharing.BY_ROLE,
    link_load: float = 0.0,
) -> Bottleneck:
    result = find_bottleneck(made.ledger.table, comes, sharing, link_load)
    assert result is not None
    return result


def load_of(result: Bottleneck, stage: Stage) -> float:
    return {it.stage: it.load for it in result.stages}[stage]


@pytest.mark.parametrize(
    ("num_prefill", "num_decode", "binds"), [(1, 7, Stage.PREFILL), (7, 1, Stage.DECODE)]
)
def test_the_stage_with_too_few_workers_binds_and_one_more_there_helps_most(
    num_prefill: int, num_decode: int, binds: Stage
) -> None:
    made = fleet(num_prefill, num_decode)
    result = found(made, workload(2048, 128, 60), Sharing.APART)
    assert result.binds is binds
    more = result.one_more
    helps, helps_not = Role(binds.value), next(it for it in Role if it.value != binds.value)
    assert more[helps] > 1.1 * result.serves_per_s
    assert more[helps_not] == pytest.approx(result.serves_per_s)


def test_nothing_binds_while_the_present_assignment_has_room() -> None:
    result = found(fleet(4, 4), workload(2048, 128, 5))
    assert result.binds is None
    assert result.load < 0.5


def test_without_a_target_the_memory_of_the_cache_bounds_answers() -> None:
    made = Scene()
    made.add("decode-0", Role.DECODE, num_blocks=100, costs=COSTS)
    result = found(made, workload(200, 400, 500, tpot_s=None), Sharing.SHARED)
    assert result.binds is Stage.KV_MEMORY


def test_a_full_cache_binds_although_little_comes() -> None:
    made = Scene()
    made.add("decode-0", Role.DECODE, told={"free_blocks": 100}, costs=COSTS)
    result = found(made, workload(200, 40, 0.1), Sharing.SHARED)
    assert load_of(result, Stage.KV_MEMORY) > 0.99
    assert result.binds is Stage.KV_MEMORY


def test_busy_links_bind() -> None:
    assert found(fleet(4, 4), workload(2048, 128, 5), link_load=0.95).binds is Stage.LINKS


def test_the_load_of_links_is_that_of_the_busiest_source() -> None:
    def report(destination: str, bytes_per_s: float) -> LinkReport:
        return LinkReport(
            destination=WorkerRef(destination, 1),
            latency_s=1e-3,
            bytes_per_s=bytes_per_s,
            transport="nixl",
            kind="network",
        )

    def active(bytes_per_s: float) -> LinkActivity:
        return LinkActivity(bytes_per_s=bytes_per_s, handoffs_per_s=1.0, exposed_s=None)

    links = {("a", "c"): active(3e9), ("a", "d"): active(3e9), ("b", "c"): active(1e9)}
    reports = [("a", report("c", 10e9)), ("a", report("d", 8e9)), ("b", report("c", 10e9))]
    assert link_load(links, reports) == pytest.approx(0.6)
    assert link_load({}, []) == 0.0


def test_workers_that_do_both_add_their_stages_up() -> None:
    result = found(fleet(4, 4), workload(2048, 128, 20), Sharing.SHARED)
    both = load_of(result, Stage.PREFILL) + load_of(result, Stage.DECODE)
    assert both == pytest.approx(result.load, rel=1e-6)
    assert result.one_more[Role.PREFILL] == result.one_more[Role.DECODE]
    assert result.one_more[Role.DECODE] == pytest.approx(result.serves_per_s * 9 / 8)


def test_nothing_is_said_of_workers_that_have_not_told_their_costs() -> None:
    made = Scene()
    made.add("decode-0", Role.DECODE)
    result = find_bottleneck(made.ledger.table, workload(100, 10, 1), Sharing.SHARED, 0.0)
    assert result is None


def test_the_settings_say_how_prompts_and_answers_share_workers() -> None:
    assert sharing_of(Roles.FIXED, Split.AUTO) is Sharing.SHARED
    assert sharing_of(Roles.FOLLOW, Split.AUTO) is Sharing.BY_ROLE
    assert sharing_of(Roles.FOLLOW, Split.ALWAYS) is Sharing.APART


def status(**fields: object) -> ModelStatus:
    worker = WorkerView(worker_id="decode-0", pool_role="decode", role="decode", state="ready")
    defaults: dict[str, object] = {
        "name": "m",
        "workers": (worker,),
        "attainment": Attainment(window_s=120),
        "queues": NO_QUEUE,
    }
    return ModelStatus(**{**defaults, **fields})  # type: ignore[arg-type]


def text(**fields: object) -> str:
    return " ".join(sentences(status(**fields)))


def test_sentences_say_what_binds_and_what_would_help() -> None:
    result = found(fleet(1, 7), workload(2048, 128, 60), Sharing.APART)
    first, *_, last = sentences(status(bottleneck=result))
    assert first.startswith("Prefill binds: 60.0 requests/s come, and the present assignment")
    assert "within a TPOT of 9 ms" in first
    assert last.startswith("One more prefill worker: ")
    assert last.endswith("one more decode worker: no more.")


def test_sentences_say_whether_targets_are_met() -> None:
    counts = Attainment(
        window_s=120, num_ended=200, num_refused=3, ttft=TargetCount(200, 150), tpot=TargetCount()
    )
    assert "200 requests ended in the last 120 s, 3 of them refused: 75.0 % met their TTFT" in text(
        attainment=counts
    )
    assert "none had a TPOT target" in text(attainment=counts)


def test_sentences_doubt_a_prediction_that_measurement_contradicts() -> None:
    counts = Attainment(window_s=120, num_ended=10, ttft=TargetCount(10, 2))
    result = found(fleet(4, 4), workload(2048, 128, 1))
    assert "By prediction there is room, yet TTFT targets are missed" in text(
        bottleneck=result, attainment=counts
    )


def test_sentences_tell_queues_and_the_last_change_of_roles() -> None:
    queues = QueueView(num_in_router=1, num_prompts=7, prompt_tokens=70_000, prompt_s=2.5)
    changes = tuple(ControllerView(seconds_ago=ago, text=f"d-{ago:.0f} turns") for ago in (7, 300))
    said = text(queues=queues, controller=changes)
    assert "1 request waits in the router and 7 prompts at workers (70,000 tokens, 2.5 s" in said
    assert "7 s ago d-7 turns." in said
    assert "300" not in said


def test_sentences_say_why_there_is_nothing_to_say() -> None:
    assert "No worker is ready" in text(workers=())
    assert "No request has come yet" in text()
    traffic = TrafficView(uncached_tokens=1, cached_tokens=0, answer_tokens=1, tpot_target_s=None)
    assert "Workers have not told yet" in text(traffic=traffic)
