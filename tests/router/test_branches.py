"""n answers to one prompt: computed once, then branches of their own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tokenizers import Tokenizer

from router.journeys.branches import branch_seed
from tests.router.conftest import Stage
from tests.router.test_generate import assert_nothing_is_left, generate, ids
from tests.router.test_http import MESSAGES, openai_client
from tests.router.test_invalid_requests import failure, http_client
from tests.router.test_openai_surface import events
from tests.router.tiny_model import EOS
from wire import inference_pb2 as pb
from wire.identity import Role
from wire.messages import Cancel, Failed, Prefilled, StepOutputs, Submit

TEXT = "two wheels and two riders"


def by_index(responses: list[pb.GenerateResponse]) -> dict[int, list[int]]:
    tokens: dict[int, list[int]] = {}
    for response in responses:
        tokens.setdefault(response.index, []).extend(response.token_ids)
    return tokens


async def test_the_branches_go_to_whoever_decodes_the_first(
    stage: Stage, backend: Tokenizer
) -> None:
    prefill, decode = await stage.add_pair(ids(backend, TEXT))
    responses = await generate(stage, n=3, sampling=pb.Sampling(seed=11))
    assert by_index(responses) == {n: [*ids(backend, TEXT), EOS] for n in range(3)}
    assert prefill.count(Submit) == 1
    submits = [await prefill.hears(Submit), *[await decode.hears(Submit, n) for n in (1, 2)]]
    assert submits[0].destination is not None
    assert [submit.destination for submit in submits[1:]] == [None, None]
    assert {submit.tokens for submit in submits} == {submits[0].tokens}
    seeds = [submit.sampling.seed for submit in submits]
    assert seeds == [branch_seed(11, branch) for branch in range(3)]
    assert seeds[0] == 11
    assert len(set(seeds)) == 3


async def test_the_usage_counts_the_prompt_once(stage: Stage, backend: Tokenizer) -> None:
    script = ids(backend, TEXT)
    prefill, _ = await stage.add_pair(script)
    responses = await generate(stage, n=3)
    endings = [response for response in responses if response.finish_reason]
    num_prompt = len((await prefill.hears(Submit)).tokens)
    assert sorted(ending.index for ending in endings) == [0, 1, 2]
    assert sum(ending.usage.prompt_tokens for ending in endings) == num_prompt
    assert sum(ending.usage.completion_tokens for ending in endings) == 3 * (len(script) + 1)


async def test_branches_wait_for_the_first_ones_prompt(stage: Stage, backend: Tokenizer) -> None:
    prefill, decode = await stage.add_pair(ids(backend, TEXT))
    may_leave = asyncio.Event()

    async def slow(submit: Submit) -> None:
        answer = prefill.answer(submit)
        prefill.send(
            Prefilled(attempt_id=submit.attempt_id, queue_s=0, prefill_s=0, cached_tokens=0)
        )
        prefill.send(StepOutputs(outputs=(answer[0],)))
        await may_leave.wait()
        await prefill.hand_over(submit, answer)

    prefill.serve = slow
    call = aiter(stage.call(text="a", n=2, max_tokens=99))
    assert (await anext(call)).index == 0
    assert (prefill.count(Submit), decode.count(Submit)) == (1, 0)
    may_leave.set()
    rest = [response async for response in call]
    assert set(by_index(rest)) == {0, 1}
    assert (prefill.count(Submit), decode.count(Submit)) == (1, 1)


@pytest.mark.parametrize("role", list(Role))
async def test_a_lone_worker_serves_all_branches(
    stage: Stage, backend: Tokenizer, role: Role
) -> None:
    worker = await stage.add("lone", role, script=ids(backend, TEXT))
    responses = await generate(stage, n=4)
    assert len(by_index(responses)) == 4
    assert worker.count(Submit) == 4


async def test_one_token_each_comes_from_whoever_read_the_prompt(stage: Stage) -> None:
    prefill, decode = await stage.add_pair([65, 66])
    assert by_index(await generate(stage, n=3, max_tokens=1)) == {0: [65], 1: [65], 2: [65]}
    assert (prefill.count(Submit), decode.count(Submit)) == (3, 0)


async def test_a_branch_whose_worker_dies_is_placed_anew(stage: Stage, backend: Tokenizer) -> None:
    script = ids(backend, TEXT)
    _, decode = await stage.add_pair(script)
    other = await stage.add("decode-1", Role.DECODE, script=script)
    first, second = sorted((decode, other), key=lambda worker: worker.ref.worker_id)
    for worker in (first, second):
        worker.hold_after = 5
    call = asyncio.create_task(generate(stage, n=2))
    done, _ = await asyncio.wait(
        [asyncio.create_task(worker.hears(Submit)) for worker in (first, second)],
        return_when=asyncio.FIRST_COMPLETED,
    )
    assert done
    home = next(worker for worker in (first, second) if worker.count(Submit))
    survivor = second if home is first else first
    survivor.hold_after = None
    await home.die()
    assert by_index(await call) == {0: [*script, EOS], 1: [*script, EOS]}


async def test_a_branch_that_fails_fails_the_request_and_frees_the_others(
    stage: Stage, backend: Tokenizer
) -> None:
    prefill, decode = await stage.add_pair(ids(backend, TEXT))
    decode.hold_after = 5

    async def breaks(submit: Submit) -> None:
        decode.send(
            Failed(attempt_id=submit.attempt_id, stage="decode", cause="broken", retryable=False)
        )

    decode.serve = breaks
    error = await failure(stage.call(text="a", n=2))
    assert "broken" in str(error.details())
    await prefill.hears(Cancel)
    assert await stage.server.conductor.wait_idle(60)
    assert_nothing_is_left(stage, prefill, decode)


async def test_a_client_that_leaves_cancels_every_branch(stage: Stage, backend: Tokenizer) -> None:
    prefill, decode = await stage.add_pair(ids(backend, TEXT))
    decode.hold_after = 5
    call = stage.call(text="a", n=3)
    await call.read()
    await decode.hears(Submit, 2)
    call.cancel()
    attempts = {(await decode.hears(Cancel, nth)).attempt_id for nth in (1, 2, 3)}
    assert len(attempts) == 3
    assert await stage.server.conductor.wait_idle(60)
    assert_nothing_is_left(stage, prefill, decode)


@pytest.mark.parametrize("chat", [True, False])
async def test_choices_have_their_index_whole_and_streamed(
    stage: Stage, backend: Tokenizer, chat: bool
) -> None:
    await stage.add_pair(ids(backend, TEXT))
    path = "/v1/chat/completions" if chat else "/v1/completions"
    prompt: dict[str, Any] = {"messages": MESSAGES} if chat else {"prompt": ["a", "b"]}
    num_choices = 3 if chat else 6
    body = {**prompt, "n": 3, "max_tokens": 99, "stream_options": {"include_usage": True}}
    async with http_client(stage) as http:
        whole = (await http.post(path, json={**body, "stream": False})).json()
    assert [choice["index"] for choice in whole["choices"]] == list(range(num_choices))
    *chunks, last, done = await events(stage, path, body)
    assert done == "[DONE]"
    assert last["usage"] == whole["usage"]
    assert whole["usage"]["completion_tokens"] == num_choices * (len(ids(backend, TEXT)) + 1)
    for index in range(num_choices):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        texts = [each["delta"].get("content") or "" if chat else each["text"] for each in own]
        assert "".join(texts) == TEXT
        assert own[-1]["finish_reason"] == "stop"
        if chat:
            assert own[0]["delta"]["role"] == "assistant"


async def test_openais_client_reads_several_choices(stage: Stage, backend: Tokenizer) -> None:
    await stage.add_pair(ids(backend, TEXT))
    async with openai_client(stage) as client:
        answer = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, n=2, stop=["and"]
        )
    assert [choice.message.content for choice in answer.choices] == ["two wheels "] * 2
