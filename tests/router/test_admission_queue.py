"""Where requests wait for room at the workers, with a real router."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from router.placing.ledger import Ledger
from router.placing.placement_request import Placement, Refusal
from tests.router.conftest import Stage, StartStage
from tests.router.fake_worker import FakeWorker
from tests.router.ledgers import COSTS
from tests.router.test_generate import generate, ids_of
from tests.router.tiny_model import EOS
from wire.identity import Role
from wire.messages import Submit

FULL = {"waiting_tokens": 200_000, "waiting_prompts": 9}


async def calibrated(stage: Stage) -> FakeWorker:
    worker = await stage.add("lone", Role.DECODE, script=[65])
    worker.report(costs=COSTS)
    await stage.until(lambda: stage.model.fleet.ledger.calibrated)
    return worker


async def fill(stage: Stage, worker: FakeWorker) -> None:
    worker.report(costs=COSTS, **FULL)
    await stage.until(lambda: stage.view(worker).num_queued_tokens > 0)


async def test_a_request_waits_until_its_worker_has_room(start_stage: StartStage) -> None:
    stage = await start_stage()
    worker = await calibrated(stage)
    await fill(stage, worker)
    waiting = asyncio.create_task(generate(stage, text="a"))
    await stage.until(lambda: len(stage.model.admission_queue) == 1)
    assert worker.count(Submit) == 0
    worker.report(costs=COSTS)
    assert ids_of(await waiting) == [65, EOS]
    assert len(stage.model.admission_queue) == 0


async def test_a_request_that_would_be_too_late_is_refused_at_once(
    start_stage: StartStage,
) -> None:
    stage = await start_stage(ttft_target_s=1.0)
    worker = await calibrated(stage)
    await fill(stage, worker)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await generate(stage, text="a")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "target" in (refused.value.details() or "")
    assert worker.count(Submit) == 0
    assert await stage.server.conductor.wait_idle(60)


async def test_a_client_that_leaves_leaves_the_queue(start_stage: StartStage) -> None:
    stage = await start_stage()
    worker = await calibrated(stage)
    await fill(stage, worker)
    calls = [stage.call(text="a") for _ in range(3)]
    await stage.until(lambda: len(stage.model.admission_queue) == 3)
    for call in calls:
        call.cancel()
    assert await stage.server.conductor.wait_idle(60)
    assert len(stage.model.admission_queue) == 0
    worker.report(costs=COSTS)
    assert ids_of(await generate(stage, text="a")) == [65, EOS]
    assert worker.count(Submit) == 1


async def test_a_full_queue_refuses(start_stage: StartStage) -> None:
    stage = await start_stage(max_queued=2)
    worker = await calibrated(stage)
    await fill(stage, worker)
    waiting = [asyncio.create_task(generate(stage, text="a")) for _ in range(3)]
    done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    (refused,) = done
    error = refused.exception()
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    worker.report(costs=COSTS)
    assert [ids_of(await task) for task in left] == [[65, EOS]] * 2


async def test_a_request_is_placed_once_when_nothing_changes(
    start_stage: StartStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await start_stage()
    await calibrated(stage)
    ledger, placed = stage.model.fleet.ledger, []

    def place(*arguments: Any) -> Placement | Refusal:
        placed.append(arguments)
        return Ledger.place(ledger, *arguments)

    monkeypatch.setattr(ledger, "place", place)
    assert ids_of(await generate(stage, text="a")) == [65, EOS]
    assert len(placed) == 1


async def test_a_request_whose_time_is_over_waits_no_longer(start_stage: StartStage) -> None:
    stage = await start_stage(request_timeout_s=1.0)
    worker = await calibrated(stage)
    await fill(stage, worker)
    with pytest.raises(grpc.aio.AioRpcError) as over:
        await generate(stage, text="a")
    assert over.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "room" in (over.value.details() or "")
    assert len(stage.model.admission_queue) == 0


async def test_before_steps_are_known_nobody_waits(start_stage: StartStage) -> None:
    stage = await start_stage(ttft_target_s=0.001)
    worker = await stage.add("lone", Role.DECODE, script=[65])
    worker.report(**FULL)
    await stage.until(lambda: stage.view(worker).num_queued_tokens > 0)
    assert ids_of(await generate(stage, text="a")) == [65, EOS]
