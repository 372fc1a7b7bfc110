"""Two revisions of a model beside each other: answers begin and end with one of them."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.router.conftest import Stage, StartStage
from tests.router.fake_worker import FakeWorker
from tests.router.ledgers import COSTS
from tests.router.test_admission_queue import fill
from tests.router.test_generate import generate, ids_of
from tests.router.test_server import NOT_SERVING, health
from tests.router.tiny_model import EOS
from wire import inference_pb2 as pb
from wire.identity import Role
from wire.messages import Submit

OLD_ANSWER, NEW_ANSWER = [65, 66, 67, 68], [75, 76, 77, 78]
OLD: dict[str, Any] = {"model_hash": "old", "content": "old", "started_at": 100.0}
NEW: dict[str, Any] = {"model_hash": "new", "content": "new", "started_at": 200.0}


async def add_old(stage: Stage, worker_id: str, role: Role) -> FakeWorker:
    return await stage.add(worker_id, role, script=OLD_ANSWER, **OLD)


async def add_new(stage: Stage, worker_id: str, role: Role) -> FakeWorker:
    return await stage.add(worker_id, role, script=NEW_ANSWER, **NEW)


def serving(stage: Stage) -> str:
    return next(it.revision for it in stage.model.fleet.revisions() if it.serves)


async def until_gone(stage: Stage, worker: FakeWorker) -> None:
    await worker.die()
    await stage.until(lambda: stage.model.fleet.member(worker.ref) is None)


async def test_traffic_goes_over_when_the_new_revision_has_a_whole_pair(stage: Stage) -> None:
    for role in Role:
        await add_old(stage, f"old-{role.value}", role)
    decode = await add_new(stage, "new-decode", Role.DECODE)
    assert await decode.answers.get() is None, "it has joined, and counts as ready"
    assert ids_of(await generate(stage)) == [*OLD_ANSWER, EOS]
    assert decode.count(Submit) == 0
    await add_new(stage, "new-prefill", Role.PREFILL)
    await stage.until(lambda: serving(stage) == "new")
    (*_, last) = responses = await generate(stage)
    assert ids_of(responses) == [*NEW_ANSWER, EOS]
    assert last.served_by.decode_worker_id == "new-decode"


async def test_a_stream_that_has_begun_ends_with_the_revision_that_began_it(stage: Stage) -> None:
    old = await add_old(stage, "old-0", Role.DECODE)
    old.hold_after = 2
    call = aiter(stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=99)))
    responses = [await anext(call)]
    await add_new(stage, "new-0", Role.DECODE)
    await stage.until(lambda: serving(stage) == "new")
    assert ids_of(await generate(stage)) == [*NEW_ANSWER, EOS]
    old.release.set()
    responses += [response async for response in call]
    assert ids_of(responses) == [*OLD_ANSWER, EOS]


async def test_a_stream_fails_over_within_the_old_revision_while_any_of_it_lives(
    stage: Stage,
) -> None:
    first = await add_old(stage, "old-0", Role.DECODE)
    first.hold_after = 2
    call = aiter(stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=99)))
    responses = [await anext(call), await anext(call)]
    await add_old(stage, "old-1", Role.DECODE)
    await add_new(stage, "new-0", Role.DECODE)
    await stage.until(lambda: serving(stage) == "new")
    await first.die()
    responses += [response async for response in call]
    assert ids_of(responses) == [*OLD_ANSWER, EOS]
    assert responses[-1].served_by.decode_worker_id == "old-1"


async def test_an_answer_that_has_begun_is_not_continued_by_other_weights(stage: Stage) -> None:
    old = await add_old(stage, "old-0", Role.DECODE)
    old.hold_after = 2
    call = aiter(stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=99)))
    responses = [await anext(call), await anext(call)]
    await add_new(stage, "new-0", Role.DECODE)
    await stage.until(lambda: serving(stage) == "new")
    await old.die()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        responses += [response async for response in call]
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "no worker is left of the model's revision" in (failed.value.details() or "")
    assert ids_of(responses) == OLD_ANSWER[:2]


async def test_an_answer_that_has_not_begun_is_given_by_the_new_revision(stage: Stage) -> None:
    old = await add_old(stage, "old-0", Role.DECODE)
    old.serve = lambda submit: None
    call = asyncio.create_task(generate(stage))
    await old.hears(Submit)
    await add_new(stage, "new-0", Role.DECODE)
    await old.die()
    assert ids_of(await call) == [*NEW_ANSWER, EOS]


async def test_requests_that_wait_for_room_are_placed_with_the_new_revision(
    stage: Stage,
) -> None:
    old = await add_old(stage, "old-0", Role.DECODE)
    old.report(costs=COSTS)
    await stage.until(lambda: stage.model.fleet.ledger.calibrated)
    await fill(stage, old)
    call = asyncio.create_task(generate(stage))
    await stage.until(lambda: len(stage.model.admission_queue) == 1)
    await add_new(stage, "new-0", Role.DECODE)
    assert ids_of(await call) == [*NEW_ANSWER, EOS]
    assert old.count(Submit) == 0


async def test_several_answers_to_one_prompt_are_of_one_revision(stage: Stage) -> None:
    old = await add_old(stage, "old-0", Role.DECODE)
    old.hold_after = 1
    call = asyncio.create_task(generate(stage, n=3))
    await old.hears(Submit)
    await add_new(stage, "new-0", Role.DECODE)
    await stage.until(lambda: serving(stage) == "new")
    old.release.set()
    responses = await call
    assert set(ids_of(responses)) <= {*OLD_ANSWER, EOS}


async def test_of_a_revision_that_is_gone_nothing_is_left(stage: Stage) -> None:
    old = await add_old(stage, "old-0", Role.DECODE)
    former = stage.model.fleet.ledger
    await add_new(stage, "new-0", Role.DECODE)
    await stage.until(lambda: serving(stage) == "new")
    await until_gone(stage, old)
    assert [it.revision for it in stage.model.fleet.revisions()] == ["new"]
    assert stage.model.fleet.ledger is not former
    assert former not in stage.model.fleet._ledgers._ledgers.values()
    assert former.lengths is stage.model.fleet.ledger.lengths, "answers are as long as they were"


async def test_a_worker_whose_tokenizer_is_another_is_refused_and_told_why_once(
    start_stage: StartStage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.fleet.REFUSED_EVERY_S", 0.0)
    stage = await start_stage()
    worker = stage.make_worker("new-0", Role.DECODE, tokenizer="another", **NEW)
    await worker.start(stage.addresses.fleet)
    (refusal,) = {await worker.answers.get() for _ in range(5)}
    assert await health(stage, "") == NOT_SERVING
    assert refusal is not None
    assert "its tokenizer (another) is not this router's" in refusal
    assert "start routers of model 'tiny' with the worker's model directory" in refusal
    told = [record for record in caplog.records if refusal in record.getMessage()]
    assert sorted(record.name for record in told) == ["runtime.fleet", "tandem.router.fleet"]


async def test_of_two_workers_with_one_id_the_second_is_told_once_and_taken_when_the_first_is_gone(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.fleet.REFUSED_EVERY_S", 0.0)
    first = await add_old(stage, "same", Role.DECODE)
    second = stage.make_worker("same", Role.DECODE, script=NEW_ANSWER, **OLD)
    await second.start(stage.addresses.fleet)
    (refusal,) = {await second.answers.get() for _ in range(5)}
    assert refusal is not None
    assert str(first.ref) in refusal
    assert f"at {first.address}" in refusal
    assert "another worker_id" in refusal
    told = [record for record in caplog.records if refusal in record.getMessage()]
    assert len(told) == 2, "one line here, one at the worker"
    assert await first.answers.get() is None
    await until_gone(stage, first)
    await stage.until(lambda: stage.model.fleet.member(second.ref) is not None)
    await stage.until(lambda: stage.model.ready)
    assert ids_of(await generate(stage)) == [*NEW_ANSWER, EOS]
