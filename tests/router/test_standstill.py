"""A router that stood still goes on with what it had, as if it had not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router.fleet import running_clock
from tests.router.conftest import Stage, StartStage
from tests.router.fake_worker import FakeWorker
from tests.router.ledgers import COSTS
from tests.router.test_admission_queue import calibrated, fill
from tests.router.test_generate import generate, ids_of
from tests.router.tiny_model import EOS
from wire import inference_pb2 as pb
from wire.identity import Role
from wire.messages import Submit


@pytest.fixture
def stand_still(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Moves the machine's clock on, as it has moved on when a stopped process runs again."""
    skipped = [0.0]
    read = running_clock.time.monotonic

    def stand(stage: Stage, seconds: float) -> None:
        clock = stage.model.fleet.clock
        monkeypatch.setattr(clock, "_read", lambda: read() + skipped[0])
        skipped[0] += seconds

    return stand


async def test_who_waits_for_room_is_served_after_a_standstill(
    start_stage: StartStage, stand_still: Any
) -> None:
    stage = await start_stage(ttft_target_s=30.0)
    worker = await calibrated(stage)
    worker.report(costs=COSTS, waiting_tokens=20_000, waiting_prompts=9)
    await stage.until(lambda: stage.view(worker).num_queued_tokens > 0)
    call = asyncio.create_task(generate(stage, text="a"))
    await stage.until(lambda: len(stage.model.admission_queue) == 1)
    stand_still(stage, 3600.0)
    worker.report(costs=COSTS)
    assert ids_of(await call) == [65, EOS]


async def test_a_deadline_that_passed_meanwhile_is_put_off(
    start_stage: StartStage, stand_still: Any
) -> None:
    stage = await start_stage(request_timeout_s=5.0)
    worker = await calibrated(stage)
    await fill(stage, worker)
    call = asyncio.create_task(generate(stage, text="a"))
    await stage.until(lambda: len(stage.model.admission_queue) == 1)
    stand_still(stage, 3600.0)
    stage.model.fleet.clock.now()
    worker.report(costs=COSTS)
    assert ids_of(await call) == [65, EOS]


async def _lost_and_back(stage: Stage, workers: list[FakeWorker]) -> list[FakeWorker]:
    """All sessions end, one after the other, and the workers announce themselves again."""
    for worker in workers:
        for session in worker._sessions:
            session.close("the router was silent")
        await stage.until(lambda it=worker: stage.model.fleet.member(it.ref) is None)  # type: ignore[misc]
    return workers


async def test_streams_go_on_when_all_workers_took_the_router_for_dead(
    start_stage: StartStage, stand_still: Any
) -> None:
    stage = await start_stage(join_wait_s=0.0, max_attempts=1)
    workers = [
        await stage.add(f"decode-{n}", Role.DECODE, script=[65, 66, 67, 68]) for n in range(3)
    ]
    for worker in workers:
        worker.hold_after = 2
    call = aiter(stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=99)))
    responses = [await anext(call), await anext(call)]
    stand_still(stage, 20.0)
    await _lost_and_back(stage, workers)
    for worker in workers:
        worker.hold_after = None
    responses += [response async for response in call]
    assert ids_of(responses) == [65, 66, 67, 68, EOS]
    assert sum(worker.count(Submit) for worker in workers) >= 2


async def test_who_comes_while_all_workers_are_away_waits_for_them(
    start_stage: StartStage, stand_still: Any
) -> None:
    stage = await start_stage(join_wait_s=0.0)
    worker = await stage.add("decode-0", Role.DECODE, script=[65])
    stand_still(stage, 20.0)
    await _lost_and_back(stage, [worker])
    assert ids_of(await generate(stage, text="a")) == [65, EOS]
