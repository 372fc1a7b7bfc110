"""Workers fail; the client's stream goes on, no token twice and none missing."""

from __future__ import annotations

import asyncio

import grpc
import msgspec
import pytest
from tokenizers import Tokenizer

from tests.router.conftest import Stage, StartStage
from tests.router.fake_worker import FakeWorker
from tests.router.test_generate import generate, ids, ids_of, text_of
from tests.router.tiny_model import EOS
from wire import inference_pb2 as pb
from wire.identity import Role, WorkerRef
from wire.messages import (
    Cancel,
    Failed,
    Kept,
    Move,
    Output,
    Prefilled,
    Released,
    StepOutputs,
    Submit,
)

TEXT = "one reads, the other writes, and the wheels turn"


async def add_spare_decode(stage: Stage, decode: FakeWorker) -> FakeWorker:
    """A decode worker that is taken only when `decode` is gone: it looks busy."""
    spare = await stage.add("decode-1", Role.DECODE, script=decode.script)
    spare.report(num_decoding=50)
    await stage.until(lambda: stage.view(spare).num_sequences == 50)
    return spare


async def test_a_lost_decode_worker_is_replaced_in_mid_stream(
    stage: Stage, backend: Tokenizer
) -> None:
    script = ids(backend, TEXT)
    prefill, decode = await stage.add_pair(script)
    spare = await add_spare_decode(stage, decode)
    decode.hold_after = 5
    call = aiter(stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=99)))
    responses = [await anext(call)]
    while len(ids_of(responses)) < 5:
        responses.append(await anext(call))
    await decode.die()
    responses += [response async for response in call]
    assert ids_of(responses) == [*script, EOS]
    assert text_of(responses) == TEXT
    again = await prefill.hears(Submit, 2)
    first = await prefill.hears(Submit)
    assert again.attempt_id.number == 1
    assert again.tokens == (*first.tokens, *script[:5])
    assert again.num_prompt == len(first.tokens)
    assert again.sampling == first.sampling
    assert again.destination is not None
    assert again.destination.ref == spare.ref
    assert (await prefill.hears(Cancel)).attempt_id.number == 0
    assert responses[-1].served_by == pb.ServedBy(
        prefill_worker_id="prefill-0", decode_worker_id="decode-1", attempts=2
    )
    assert responses[-1].usage.prompt_tokens == len(first.tokens)
    assert responses[-1].usage.completion_tokens == len(script) + 1


async def test_a_prefill_worker_lost_before_its_first_token_is_replaced(
    stage: Stage, backend: Tokenizer
) -> None:
    script = ids(backend, TEXT)
    prefill, decode = await stage.add_pair(script)
    prefill.serve = lambda submit: None
    call = asyncio.create_task(generate(stage))
    await prefill.hears(Submit)
    spare = await stage.add("prefill-1", Role.PREFILL, script=script)
    await prefill.die()
    assert ids_of(await call) == [*script, EOS]
    assert (await spare.hears(Submit)).attempt_id.number == 1
    assert (await decode.hears(Cancel)).attempt_id.number == 0


async def test_a_prefill_worker_lost_after_the_handoff_is_no_matter(
    stage: Stage, backend: Tokenizer
) -> None:
    script = ids(backend, TEXT)
    prefill, decode = await stage.add_pair(script)
    decode.hold_after = 3
    call = aiter(stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=99)))
    responses = [await anext(call)]
    while len(ids_of(responses)) < 3:
        responses.append(await anext(call))
    await prefill.die()
    await stage.until(lambda: stage.model.fleet.member(prefill.ref) is None)
    decode.release.set()
    responses += [response async for response in call]
    assert ids_of(responses) == [*script, EOS]
    assert responses[-1].served_by.attempts == 1


async def test_the_last_worker_standing_finishes_alone(stage: Stage, backend: Tokenizer) -> None:
    script = ids(backend, TEXT)
    prefill, decode = await stage.add_pair(script)
    decode.hold_after = 4
    call = asyncio.create_task(generate(stage))
    await prefill.hears(Submit)
    await stage.until(lambda: decode.num_sent >= 4)
    await decode.die()
    assert ids_of(await call) == [*script, EOS]
    assert (await prefill.hears(Submit, 2)).destination is None


async def test_a_destination_lost_before_it_accepted_costs_nothing(
    stage: Stage, backend: Tokenizer
) -> None:
    """The first worker still has the sequence, and decodes it itself."""
    script = ids(backend, TEXT)
    prefill, decode = await stage.add_pair(script)

    async def keep(submit: Submit) -> None:
        first, *others = prefill.answer(submit)
        prefill.send(
            Prefilled(attempt_id=submit.attempt_id, queue_s=0, prefill_s=0, cached_tokens=0)
        )
        prefill.send(StepOutputs(outputs=(first,)))
        await decode.die()
        await stage.until(lambda: stage.model.fleet.member(decode.ref) is None)
        prefill.send(Kept(attempt_id=submit.attempt_id, cause="the destination is gone"))
        await prefill.make_tokens(submit, others)

    prefill.serve = keep
    responses = await generate(stage)
    assert ids_of(responses) == [*script, EOS]
    assert responses[-1].served_by == pb.ServedBy(
        prefill_worker_id="prefill-0", decode_worker_id="prefill-0", attempts=1
    )
    assert not responses[-1].timing.HasField("transfer")


async def test_a_sequence_that_is_lost_with_its_destination_is_resubmitted(
    stage: Stage, backend: Tokenizer
) -> None:
    """The destination accepted, and was gone before it could say a word."""
    script = ids(backend, TEXT)
    prefill, decode = await stage.add_pair(script)

    async def release(submit: Submit) -> None:
        if submit.attempt_id.number > 0:
            return await prefill.serve_script(submit)
        prefill.send(StepOutputs(outputs=(prefill.answer(submit)[0],)))
        await decode.die()
        await stage.until(lambda: stage.model.fleet.member(decode.ref) is None)
        prefill.send(Released(attempt_id=submit.attempt_id))

    prefill.serve = release
    responses = await generate(stage)
    assert ids_of(responses) == [*script, EOS]
    assert responses[-1].served_by.attempts == 2


async def test_a_gap_is_recovered_from_and_never_streamed(stage: Stage, backend: Tokenizer) -> None:
    script = ids(backend, TEXT)
    prefill, decode = await stage.add_pair(script)
    healthy = decode.take_over

    def losing(submit: Submit, answer: list[Output], source: WorkerRef) -> None:
        lossy = [*answer[:2], *answer[4:]] if submit.attempt_id.number == 0 else answer
        healthy(submit, lossy, source)

    decode.take_over = losing  # type: ignore[assignment]
    responses = await generate(stage)
    assert ids_of(responses) == [*script, EOS]
    assert (await prefill.hears(Submit, 2)).attempt_id.number == 1
    assert (await decode.hears(Cancel)).attempt_id.number == 0


async def test_outputs_of_an_earlier_attempt_are_ignored(stage: Stage, backend: Tokenizer) -> None:
    script = ids(backend, TEXT)
    prefill, _ = await stage.add_pair(script)

    async def fails_once(submit: Submit) -> None:
        if submit.attempt_id.number == 0:
            prefill.send(failed(submit, retryable=True))
            return
        stale = Output(attempt_id=first.attempt_id, position=first.num_prompt, tokens=(99,))
        prefill.send(StepOutputs(outputs=(stale,)))
        await prefill.serve_script(submit)

    prefill.serve = fails_once
    call = asyncio.create_task(generate(stage))
    first = await prefill.hears(Submit)
    assert ids_of(await call) == [*script, EOS]


def failed(submit: Submit, *, retryable: bool) -> Failed:
    return Failed(
        attempt_id=submit.attempt_id, stage="prefill", cause="no memory", retryable=retryable
    )


async def test_a_failure_that_would_repeat_is_not_retried(stage: Stage) -> None:
    prefill, _ = await stage.add_pair([65])

    async def fail(submit: Submit) -> None:
        prefill.send(failed(submit, retryable=False))

    prefill.serve = fail
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(stage, request_id="mine")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    for part in ("mine", "prefill", str(prefill.ref), "no memory"):
        assert part in str(caught.value.details())
    assert prefill.count(Submit) == 1


async def test_after_the_last_attempt_the_client_hears_stage_worker_and_cause(
    start_stage: StartStage,
) -> None:
    stage = await start_stage(max_attempts=2)
    prefill, decode = await stage.add_pair([65])

    async def fail(submit: Submit) -> None:
        prefill.send(
            Prefilled(attempt_id=submit.attempt_id, queue_s=0, prefill_s=0, cached_tokens=0)
        )
        prefill.send(failed(submit, retryable=True))

    prefill.serve = fail
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(stage)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    for part in ("prefill", str(prefill.ref), "no memory", "2 attempts"):
        assert part in str(caught.value.details())
    assert prefill.count(Submit) == 2
    assert (await decode.hears(Cancel, 2)).attempt_id.number == 1


async def test_an_avoided_worker_is_taken_when_there_is_no_other(
    stage: Stage, backend: Tokenizer
) -> None:
    script = ids(backend, TEXT)
    prefill, _ = await stage.add_pair(script)

    async def fail_once(submit: Submit) -> None:
        if submit.attempt_id.number == 0:
            prefill.send(failed(submit, retryable=True))
        else:
            await prefill.serve_script(submit)

    prefill.serve = fail_once
    assert ids_of(await generate(stage)) == [*script, EOS]


async def test_a_new_incarnation_takes_the_place_of_the_old(
    stage: Stage, backend: Tokenizer
) -> None:
    script = ids(backend, TEXT)
    prefill, decode = await stage.add_pair(script)
    decode.hold_after = 4
    call = asyncio.create_task(generate(stage))
    await stage.until(lambda: decode.num_sent >= 4)
    await decode.die()
    reborn = await stage.add("decode-0", Role.DECODE, script=script)
    assert stage.model.fleet.member(decode.ref) is None
    assert ids_of(await call) == [*script, EOS]
    assert (await prefill.hears(Submit, 2)).attempt_id.number == 1
    assert text_of(await generate(stage)) == TEXT
    third = await prefill.hears(Submit, 3)
    assert third.destination is not None
    assert third.destination.ref == reborn.ref


async def test_a_late_announcement_of_a_former_life_does_not_cost_the_present_one(
    stage: Stage, backend: Tokenizer
) -> None:
    worker = await stage.add("decode-0", Role.DECODE, script=ids(backend, TEXT))
    former = msgspec.structs.replace(worker.card, ref=WorkerRef("decode-0", 1))
    stage.model.fleet.join(former)
    assert stage.model.fleet.member(worker.ref) is not None


async def test_a_kept_sequence_is_sent_on_to_another_decode_worker(
    stage: Stage, backend: Tokenizer
) -> None:
    script = ids(backend, TEXT)
    prefill, decode = await stage.add_pair(script)
    spare = await add_spare_decode(stage, decode)

    async def keep_until_moved(submit: Submit) -> None:
        answer = prefill.answer(submit)
        prefill.send(
            Prefilled(attempt_id=submit.attempt_id, queue_s=0.1, prefill_s=0.2, cached_tokens=4)
        )
        prefill.send(StepOutputs(outputs=(answer[0],)))
        prefill.send(Kept(attempt_id=submit.attempt_id, cause="full: no free blocks"))
        prefill.send(StepOutputs(outputs=(answer[1],)))
        move = await prefill.hears(Move)
        assert move.destination.ref == spare.ref
        spare.take_over(submit, answer, prefill.ref)
        prefill.send(Released(attempt_id=submit.attempt_id))

    prefill.serve = keep_until_moved
    responses = await generate(stage)
    assert ids_of(responses) == [*script, EOS]
    assert responses[-1].served_by.decode_worker_id == "decode-1"
    assert responses[-1].served_by.attempts == 1


async def test_a_kept_sequence_stays_when_nobody_else_could_take_it(
    stage: Stage, backend: Tokenizer
) -> None:
    script = ids(backend, TEXT)
    prefill, decode = await stage.add_pair(script)

    async def keep(submit: Submit) -> None:
        prefill.send(Kept(attempt_id=submit.attempt_id, cause="full: no free blocks"))
        await prefill.make_tokens(submit, prefill.answer(submit))

    prefill.serve = keep
    assert ids_of(await generate(stage)) == [*script, EOS]
    assert prefill.count(Move) == 0
    assert decode.num_sent == 0
