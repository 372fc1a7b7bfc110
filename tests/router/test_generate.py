"""Generate over gRPC: one stream out of two workers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import msgspec
import pytest
from tokenizers import Tokenizer

from tests.router.conftest import Stage, StartStage
from tests.router.fake_worker import FakeWorker, fake_logprob
from tests.router.tiny_model import ASSISTANT, BOS, EOS, USER
from wire import inference_pb2 as pb
from wire.identity import Role
from wire.messages import Cancel, Output, Prefilled, StepOutputs, Submit
from wire.traits import RequestTraits

Responses = list[pb.GenerateResponse]


async def generate(stage: Stage, **fields: object) -> Responses:
    request = pb.GenerateRequest(**{"text": "the quick", "max_tokens": 99, **fields})
    return [response async for response in stage.stub.Generate(request)]


def text_of(responses: Responses) -> str:
    return "".join(response.text for response in responses)


def ids_of(responses: Responses) -> list[int]:
    return [token for response in responses for token in response.token_ids]


def ids(backend: Tokenizer, text: str) -> list[int]:
    return backend.encode(text, add_special_tokens=False).ids


async def test_pieces_add_up_to_the_whole_text(stage: Stage, backend: Tokenizer) -> None:
    text = "héllo 😀👩‍🚀 你好 wörld"
    script = ids(backend, text)
    await stage.add_pair(script)
    responses = await generate(stage)
    assert len(responses) > 10
    assert all("\ufffd" not in response.text for response in responses)
    assert text_of(responses) == text
    assert ids_of(responses) == [*script, EOS]


async def test_the_last_message_tells_usage_timing_and_workers(
    stage: Stage, backend: Tokenizer
) -> None:
    script = ids(backend, "a tandem has two wheels")
    await stage.add_pair(script)
    *others, last = await generate(stage, request_id="mine")
    assert not any(response.HasField("usage") for response in others)
    assert last.request_id == "mine"
    assert last.finish_reason == pb.FINISH_REASON_STOP
    assert last.matched_stop.token_id == EOS
    prompt_tokens = len(backend.encode("the quick").ids)
    assert last.usage == pb.Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=len(script) + 1,
        cached_tokens=min(4, prompt_tokens),
    )
    assert last.timing.transfer.num_blocks == 3
    assert last.timing.transfer.skipped_blocks == 1
    assert last.timing.transfer.num_bytes == 384
    assert (last.timing.queue_s, last.timing.prefill_s) == (0.1, 0.2)
    assert 0 < last.timing.tpot_s < last.timing.decode_s
    assert last.timing.ttft_s > 0
    assert last.served_by == pb.ServedBy(
        prefill_worker_id="prefill-0", decode_worker_id="decode-0", attempts=1
    )


async def test_text_prompts_begin_as_the_tokenizer_wants_and_chats_as_the_template_says(
    stage: Stage, backend: Tokenizer
) -> None:
    prefill, _ = await stage.add_pair([5])
    await generate(stage, text="the fox")
    assert (await prefill.hears(Submit)).tokens == (BOS, *ids(backend, "the fox"))
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="the fox")])
    await generate(stage, text=None, chat=chat)
    expected = (BOS, USER, *ids(backend, "the fox"), EOS, ASSISTANT)
    assert (await prefill.hears(Submit, 2)).tokens == expected
    await generate(stage, text=None, token_ids=pb.TokenIds(ids=[7, 8]))
    assert (await prefill.hears(Submit, 3)).tokens == (7, 8)


async def test_sampling_reaches_the_worker_as_it_was_asked_for(stage: Stage) -> None:
    prefill, _ = await stage.add_pair([5])
    sampling = pb.Sampling(temperature=0, top_p=0.5, top_k=7, seed=11, min_p=0.1)
    await generate(
        stage,
        sampling=sampling,
        min_tokens=1,
        stop_token_ids=[9],
        ignore_eos=True,
        cache_salt="tenant",
        cache_prompt=False,
    )
    submit = await prefill.hears(Submit)
    wanted = submit.sampling
    assert (wanted.temperature, wanted.top_p, wanted.top_k, wanted.seed) == (0, 0.5, 7, 11)
    assert (wanted.min_p, wanted.min_tokens, wanted.stop_token_ids) == (0.1, 1, (9,))
    assert wanted.ignore_eos
    assert submit.traits == RequestTraits(cache_salt=b"tenant", cache_prompt=False)
    assert submit.deadline_s is not None
    await generate(stage)
    await generate(stage)
    drawn = [(await prefill.hears(Submit, nth)).sampling.seed for nth in (2, 3)]
    assert drawn[0] != drawn[1]


async def test_a_destination_that_overtakes_repeats_and_loses_nothing(
    stage: Stage, backend: Tokenizer
) -> None:
    """The destination's stream is complete before the first worker's first token arrives."""
    script = ids(backend, "one reads, the other writes")
    prefill, decode = await stage.add_pair(script)

    async def overtaken(submit: Submit) -> None:
        answer = prefill.answer(submit)
        await prefill.hand_over(submit, answer)
        await decode.tasks[submit.attempt_id]
        prefill.send(
            Prefilled(attempt_id=submit.attempt_id, queue_s=0, prefill_s=0, cached_tokens=0)
        )
        prefill.send(StepOutputs(outputs=(answer[0],)))

    prefill.serve = overtaken
    responses = await generate(stage)
    assert ids_of(responses) == [*script, EOS]
    assert text_of(responses) == "one reads, the other writes"


async def test_the_first_token_does_not_wait_for_the_destination(
    stage: Stage, backend: Tokenizer
) -> None:
    script = ids(backend, "two wheels")
    _, decode = await stage.add_pair(script)
    decode.hold_after = 0  # nothing comes from it
    call = aiter(stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=9)))
    first = await anext(call)
    assert first.token_ids == [script[0]]
    decode.release.set()
    rest = [response async for response in call]
    assert [*first.token_ids, *ids_of(rest)] == [*script, EOS]


async def test_stop_strings_end_the_text_and_the_work(stage: Stage, backend: Tokenizer) -> None:
    script = ids(backend, "two wheels and two riders")
    prefill, decode = await stage.add_pair(script)
    decode.hold_after = len(ids(backend, "two wheels and two"))
    responses = await generate(stage, stop=["nothing", "els an", "d two"])
    assert text_of(responses) == "two whe"
    assert responses[-1].finish_reason == pb.FINISH_REASON_STOP
    assert responses[-1].matched_stop.text == "els an"
    num_tokens = responses[-1].usage.completion_tokens
    assert ids_of(responses) == script[:num_tokens]
    assert "els an" in backend.decode(script[:num_tokens])
    assert "els an" not in backend.decode(script[: num_tokens - 1])
    attempt_id = (await prefill.hears(Submit)).attempt_id
    assert (await prefill.hears(Cancel)).attempt_id == attempt_id
    assert (await decode.hears(Cancel)).attempt_id == attempt_id
    # How long answers are is learned from these, too.
    assert stage.model.fleet.ledger.lengths.expected("", 1000) == num_tokens


async def test_what_is_learned_of_an_answer_ends_with_its_stop_string(
    stage: Stage, backend: Tokenizer
) -> None:
    """All of it came at once, the worker's own end as well."""
    script = ids(backend, "two wheels and two riders")
    worker = await stage.add("lone", Role.DECODE, script=script)

    async def at_once(submit: Submit) -> None:
        outputs = worker.answer(submit)
        tokens = tuple(token for output in outputs for token in output.tokens)
        position = outputs[0].position
        worker.send(
            StepOutputs(
                outputs=(msgspec.structs.replace(outputs[-1], tokens=tokens, position=position),)
            )
        )

    worker.serve = at_once
    responses = await generate(stage, stop=["els an"])
    num_tokens = responses[-1].usage.completion_tokens
    assert num_tokens < len(script)
    assert stage.model.fleet.ledger.lengths.expected("", 1000) == num_tokens


async def test_stop_strings_wait_for_min_tokens(stage: Stage, backend: Tokenizer) -> None:
    script = ids(backend, "aXbXcXd")
    await stage.add_pair(script)
    responses = await generate(stage, stop=["X"], min_tokens=4)
    assert text_of(responses) == "aXb"


async def test_max_tokens_ends_with_length(stage: Stage, backend: Tokenizer) -> None:
    script = ids(backend, "one reads, the other writes")
    await stage.add_pair(script)
    responses = await generate(stage, max_tokens=3)
    assert ids_of(responses) == script[:3]
    assert responses[-1].finish_reason == pb.FINISH_REASON_LENGTH
    assert not responses[-1].HasField("matched_stop")


async def test_one_token_goes_to_one_worker(stage: Stage) -> None:
    prefill, decode = await stage.add_pair([65, 66])
    responses = await generate(stage, max_tokens=1)
    assert ids_of(responses) == [65]
    assert (await prefill.hears(Submit)).destination is None
    assert decode.count(Submit) == 0
    assert not responses[-1].timing.HasField("transfer")
    assert responses[-1].served_by.decode_worker_id == "prefill-0"


@pytest.mark.parametrize("role", list(Role))
async def test_a_lone_worker_serves_the_whole_request(
    stage: Stage, backend: Tokenizer, role: Role
) -> None:
    script = ids(backend, "the wheels turn")
    worker = await stage.add("lone", role, script=script)
    assert text_of(await generate(stage)) == "the wheels turn"
    assert (await worker.hears(Submit)).destination is None


async def test_logprobs_come_with_their_tokens(stage: Stage) -> None:
    await stage.add_pair([65, 66, 67])
    responses = await generate(stage, logprobs=2, max_tokens=3)
    got = [each for response in responses for each in response.logprobs]
    assert [each.token_id for each in got] == [65, 66, 67]
    assert [each.logprob for each in got] == [-0.65, -0.66, -0.67]
    assert [top.token_id for top in got[0].top] == list(fake_logprob(65, 2).top_ids)


async def test_a_cancelled_call_is_cancelled_on_both_workers(stage: Stage) -> None:
    prefill, decode = await stage.add_pair([65, 66, 67])
    decode.hold_after = 2
    call = stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=9))
    await call.read()
    call.cancel()
    attempt_id = (await prefill.hears(Submit)).attempt_id
    assert (await prefill.hears(Cancel)).attempt_id == attempt_id
    assert (await decode.hears(Cancel)).attempt_id == attempt_id
    assert await stage.server.conductor.wait_idle(5)
    assert_nothing_is_left(stage, prefill, decode)


async def test_a_deadline_ends_the_call_and_the_work(stage: Stage) -> None:
    prefill, decode = await stage.add_pair([65, 66, 67])
    decode.hold_after = 2
    call = stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=9), timeout=0.3)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [response async for response in call]
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await prefill.hears(Cancel)
    await decode.hears(Cancel)


async def test_the_routers_own_deadline_names_stage_and_worker(start_stage: StartStage) -> None:
    stage = await start_stage(request_timeout_s=0.2)
    prefill, decode = await stage.add_pair([65, 66, 67])
    decode.hold_after = 2
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(stage)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "decode" in str(caught.value.details())
    assert str(decode.ref) in str(caught.value.details())
    await prefill.hears(Cancel)
    await decode.hears(Cancel)


async def test_a_reader_that_lags_gets_its_tokens_in_one_message(stage: Stage) -> None:
    """The first leaves at once; those that arrive while it is being written leave as one."""
    prefill, _ = await stage.add_pair([])

    async def burst(submit: Submit) -> None:
        first, *rest = one_token_outputs(submit, [65] * 40)
        prefill.send(StepOutputs(outputs=(first, *rest)))

    prefill.serve = burst
    responses = await generate(stage, max_tokens=40)
    assert [len(response.token_ids) for response in responses] == [1, 39, 0]


def one_token_outputs(submit: Submit, tokens: Sequence[int]) -> list[Output]:
    worker = FakeWorker("nobody", Role.PREFILL, peers={}, script=tokens)
    return worker.answer(submit)


async def test_requests_of_the_same_name_do_not_meet(stage: Stage, backend: Tokenizer) -> None:
    script = ids(backend, "two wheels and two riders")
    await stage.add_pair(script)
    answers = await asyncio.gather(*(generate(stage, request_id="same") for _ in range(5)))
    assert [ids_of(answer) for answer in answers] == [[*script, EOS]] * 5


async def test_tokenize_and_detokenize_are_inverse(stage: Stage, backend: Tokenizer) -> None:
    tokens = (await stage.stub.Tokenize(pb.TokenizeRequest(text="the fox 😀"))).token_ids
    assert list(tokens) == backend.encode("the fox 😀").ids
    response = await stage.stub.Detokenize(pb.DetokenizeRequest(token_ids=tokens))
    assert response.text == "the fox 😀"
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="a")])
    tokens = (await stage.stub.Tokenize(pb.TokenizeRequest(chat=chat))).token_ids
    assert list(tokens) == [BOS, USER, *ids(backend, "a"), EOS, ASSISTANT]


def assert_nothing_is_left(stage: Stage, *workers: FakeWorker) -> None:
    for worker in workers:
        view = stage.view(worker)
        assert (view.num_legs, view.num_queued_tokens) == (0, 0)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("<|user|>", "fox"),  # in the middle of the answer
        ("<|user|> jumps", "fox"),
        ("fox<|user|>", ""),
        ("<|eos|>", "fox jumps"),  # which ends it in any case, and is told by its name
        ("<|bos|>", "fox jumps"),
    ],
)
@pytest.mark.parametrize("include", [False, True])
async def test_a_stop_may_name_a_special_token(
    stage: Stage, backend: Tokenizer, stop: str, expected: str, include: bool
) -> None:
    script = [*ids(backend, "fox"), USER, *ids(backend, " jumps")]
    await stage.add_pair(script)
    request = {"text": "a", "stop": [stop], "max_tokens": 50, "include_stop": include}
    responses = [response async for response in stage.call(**request)]
    found = stop != "<|bos|>"
    text = "".join(response.text for response in responses)
    assert text == expected + (stop if found and include else "")
    assert responses[-1].finish_reason == pb.FINISH_REASON_STOP
    assert responses[-1].matched_stop.text == (stop if found else "")
