"""The HTTP door with the OpenAI client, and with a plain one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from tokenizers import Tokenizer

from tests.router.conftest import Stage, StartStage
from tests.router.test_generate import assert_nothing_is_left, ids
from tests.router.test_invalid_requests import http_client
from tests.router.tiny_model import ASSISTANT, BOS, EOS, USER
from wire.identity import Role
from wire.messages import Cancel, Failed, Prefilled, StepOutputs, Submit
from wire.traits import RequestTraits

TEXT = "two wheels 😀 and two riders"
MESSAGES: Any = [{"role": "user", "content": "the fox"}]


@pytest_asyncio.fixture
async def client(stage: Stage) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai_client(stage) as client:
        yield client


def openai_client(stage: Stage) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"http://{stage.addresses.http}/v1",
        api_key="none",
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    )


async def test_models_are_listed(stage: Stage, client: openai.AsyncOpenAI) -> None:
    (model,) = (await client.models.list()).data
    assert model.id == "tiny"
    assert model.model_extra is not None
    assert model.model_extra["max_model_len"] == 256
    assert (await client.models.retrieve("tiny")).id == "tiny"


async def test_a_chat_is_answered_whole(
    stage: Stage, client: openai.AsyncOpenAI, backend: Tokenizer
) -> None:
    script = ids(backend, TEXT)
    prefill, _ = await stage.add_pair(script)
    answer = await client.chat.completions.create(model="tiny", messages=MESSAGES)
    (choice,) = answer.choices
    assert choice.message.content == TEXT
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    submit = await prefill.hears(Submit)
    assert submit.tokens == (BOS, USER, *ids(backend, "the fox"), EOS, ASSISTANT)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(submit.tokens)
    assert answer.usage.completion_tokens == len(script) + 1
    assert answer.usage.total_tokens == len(submit.tokens) + len(script) + 1
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 4


async def test_a_chat_is_streamed(
    stage: Stage, client: openai.AsyncOpenAI, backend: Tokenizer
) -> None:
    script = ids(backend, TEXT)
    await stage.add_pair(script)
    stream = await client.chat.completions.create(
        model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    first, *pieces, ending, last = [chunk async for chunk in stream]
    assert first.choices[0].delta.role == "assistant"
    assert first.choices[0].delta.content == ""
    texts = [chunk.choices[0].delta.content or "" for chunk in pieces]
    assert "".join(texts) == TEXT
    assert all(texts)
    assert len(texts) > 5
    assert all("\ufffd" not in text for text in texts)
    assert ending.choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == len(script) + 1
    assert len({chunk.id for chunk in (first, *pieces, ending, last)}) == 1


async def test_text_completions_take_text_and_ids(
    stage: Stage, client: openai.AsyncOpenAI, backend: Tokenizer
) -> None:
    prefill, _ = await stage.add_pair(ids(backend, TEXT))
    prompts: list[Any] = ["the fox", ["the fox"], [7, 8], [[7, 8]]]
    for nth, prompt in enumerate(prompts, start=1):
        answer = await client.completions.create(model="tiny", prompt=prompt, max_tokens=99)
        assert answer.choices[0].text == TEXT
        expected = (7, 8) if nth > 2 else (BOS, *ids(backend, "the fox"))
        assert (await prefill.hears(Submit, nth)).tokens == expected


async def test_a_completion_is_streamed_until_its_stop(
    stage: Stage, client: openai.AsyncOpenAI, backend: Tokenizer
) -> None:
    await stage.add_pair(ids(backend, TEXT))
    stream = await client.completions.create(
        model="tiny", prompt="a", max_tokens=99, stream=True, stop=["d two"]
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "two wheels 😀 an"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].choices[0].model_extra == {"stop_reason": "d two"}
    assert all(chunk.usage is None for chunk in chunks)


async def test_an_absent_max_tokens_is_sixteen_for_completions(
    stage: Stage, client: openai.AsyncOpenAI
) -> None:
    prefill, _ = await stage.add_pair([65] * 300)
    answer = await client.completions.create(model="tiny", prompt="a")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    chat = await client.chat.completions.create(model="tiny", messages=MESSAGES)
    num_prompt = len((await prefill.hears(Submit, 2)).tokens)
    assert chat.usage is not None
    assert chat.usage.completion_tokens == 256 - num_prompt


async def test_logprobs_have_openais_shape(
    stage: Stage, client: openai.AsyncOpenAI, backend: Tokenizer
) -> None:
    script = ids(backend, "wheels")
    await stage.add_pair(script)
    plain = await client.completions.create(
        model="tiny", prompt="a", max_tokens=len(script), logprobs=2
    )
    logprobs = plain.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == [backend.decode([token]) for token in script]
    assert logprobs.token_logprobs == [-token / 100 for token in script]
    assert logprobs.text_offset is not None
    assert logprobs.text_offset[0] == 0
    assert logprobs.top_logprobs is not None
    assert len(logprobs.top_logprobs[0]) == 2
    chat = await client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=len(script), logprobs=True, top_logprobs=1
    )
    chat_logprobs = chat.choices[0].logprobs
    assert chat_logprobs is not None
    assert chat_logprobs.content is not None
    assert [each.token for each in chat_logprobs.content] == logprobs.tokens
    assert bytes(chat_logprobs.content[0].bytes or []).decode() == logprobs.tokens[0]
    assert len(chat_logprobs.content[0].top_logprobs) == 1


async def test_extensions_reach_the_worker_and_unknown_fields_do_not_matter(
    stage: Stage, client: openai.AsyncOpenAI
) -> None:
    prefill, _ = await stage.add_pair([65])
    extensions = {
        "top_k": 5,
        "min_p": 0.2,
        "repetition_penalty": 1.5,
        "min_tokens": 1,
        "ignore_eos": True,
        "stop_token_ids": [9],
        "cache_salt": "tenant",
        "cache_prompt": False,
        "no_such_field": {"a": 1},
    }
    await client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": [{"type": "text", "text": "the fox"}]}],
        max_completion_tokens=7,
        seed=3,
        extra_body=extensions,
    )
    submit = await prefill.hears(Submit)
    wanted = submit.sampling
    assert (wanted.top_k, wanted.min_p, wanted.repetition_penalty) == (5, 0.2, 1.5)
    assert (wanted.min_tokens, wanted.stop_token_ids, wanted.ignore_eos) == (1, (9,), True)
    assert (wanted.max_tokens, wanted.seed) == (7, 3)
    assert submit.traits == RequestTraits(cache_salt=b"tenant", cache_prompt=False)


async def test_a_top_k_of_minus_one_means_all(stage: Stage) -> None:
    prefill, _ = await stage.add_pair([65])
    async with http_client(stage) as http:
        await http.post("/v1/completions", json={"prompt": "a", "top_k": -1})
    assert (await prefill.hears(Submit)).sampling.top_k is None


async def test_the_clients_request_id_comes_back(stage: Stage) -> None:
    prefill, _ = await stage.add_pair([65])
    async with http_client(stage) as http:
        response = await http.post(
            "/v1/completions", json={"prompt": "a"}, headers={"X-Request-Id": "mine"}
        )
    assert response.headers["x-request-id"] == "mine"
    assert response.json()["id"] == "cmpl-mine"
    assert (await prefill.hears(Submit)).attempt_id.request_id.startswith("mine")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_the_workers(stage: Stage, stream: bool) -> None:
    prefill, decode = await stage.add_pair([65, 66, 67])
    decode.hold_after = 2
    body = {"prompt": "a", "stream": stream}
    async with http_client(stage) as http:
        request = http.stream("POST", "/v1/completions", json=body)
        if stream:
            async with request as response:
                assert await anext(response.aiter_lines())
        else:
            asking = asyncio.create_task(http.post("/v1/completions", json=body))
            await stage.until(lambda: decode.num_sent == decode.hold_after)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    await prefill.hears(Cancel)
    await decode.hears(Cancel)
    assert await stage.server.conductor.wait_idle(60)
    assert_nothing_is_left(stage, prefill, decode)


async def test_without_workers_the_answer_is_503_with_a_time_to_return(stage: Stage) -> None:
    async with http_client(stage) as http:
        response = await http.post("/v1/completions", json={"prompt": "a", "stream": True})
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["type"] == "server_error"
        health = await http.get("/health")
        assert health.status_code == 503
        await stage.add("lone", Role.DECODE)
        assert (await http.get("/health")).status_code == 200


async def test_a_request_waits_a_moment_for_a_worker(start_stage: StartStage) -> None:
    stage = await start_stage(join_wait_s=10.0)
    worker = stage.make_worker("late", Role.DECODE, script=[65])
    async with http_client(stage) as http:
        request = http.stream("POST", "/v1/completions", json={"prompt": "a", "stream": True})
        await worker.start(stage.addresses.fleet)
        async with request as response:
            assert response.status_code == 200


async def test_too_many_requests_are_429_with_a_time_to_return(start_stage: StartStage) -> None:
    stage = await start_stage(max_waiting=1)
    _, decode = await stage.add_pair([65, 66, 67])
    decode.hold_after = 2
    body = {"prompt": "a", "stream": True}
    async with http_client(stage) as http:
        async with http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.aiter_lines()
            await anext(lines)
            refused = await http.post("/v1/completions", json=body)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["type"] == "rate_limit_error"
            decode.release.set()
            assert [line async for line in lines if line][-1] == "data: [DONE]"
        assert (await http.post("/v1/completions", json=body)).status_code == 200


async def test_an_error_after_the_first_byte_is_the_last_event(stage: Stage) -> None:
    prefill, _ = await stage.add_pair([65, 66, 67])

    async def breaks(submit: Submit) -> None:
        prefill.send(
            Prefilled(attempt_id=submit.attempt_id, queue_s=0, prefill_s=0, cached_tokens=0)
        )
        prefill.send(StepOutputs(outputs=(prefill.answer(submit)[0],)))
        prefill.send(
            Failed(attempt_id=submit.attempt_id, stage="decode", cause="broken", retryable=False)
        )

    prefill.serve = breaks
    async with http_client(stage) as http:
        response = await http.post("/v1/completions", json={"prompt": "a", "stream": True})
    events = response.text.strip().split("\n\n")
    assert response.status_code == 200
    assert "[DONE]" not in response.text
    assert "broken" in json.loads(events[-1].removeprefix("data: "))["error"]["message"]


async def test_a_timeout_is_504(start_stage: StartStage) -> None:
    stage = await start_stage(request_timeout_s=2.0)
    prefill, _ = await stage.add_pair([65])
    prefill.serve = lambda submit: None
    async with http_client(stage) as http:
        response = await http.post("/v1/completions", json={"prompt": "a"})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    await prefill.hears(Cancel)


async def test_every_answer_of_a_request_takes_a_place(start_stage: StartStage) -> None:
    stage = await start_stage(max_waiting=4)
    _, decode = await stage.add_pair([65, 66, 67])
    decode.hold_after = 2
    body = {"prompt": "a", "stream": True, "n": 3}
    async with http_client(stage) as http:
        async with http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.aiter_lines()
            await anext(lines)
            assert (await http.get("/load")).json()["server_load"] == 3
            refused = await http.post("/v1/completions", json={"prompt": "a", "n": 2})
            assert refused.status_code == 429
            decode.release.set()
            assert [line async for line in lines if line][-1] == "data: [DONE]"
        assert (await http.post("/v1/completions", json={**body, "n": 8})).status_code == 200


async def test_tokenizing_takes_a_place_too(start_stage: StartStage) -> None:
    stage = await start_stage(max_waiting=0)
    async with http_client(stage) as http:
        assert (await http.post("/tokenize", json={"prompt": "a"})).status_code == 429
