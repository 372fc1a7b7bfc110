"""The whole OpenAI surface with OpenAI's own client: what it may send, and what it gets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pydantic
import pytest
import pytest_asyncio
from tokenizers import Tokenizer

from tests.router.conftest import Stage, StartStage
from tests.router.test_generate import ids
from tests.router.test_http import MESSAGES, openai_client
from tests.router.test_invalid_requests import http_client
from tests.router.tiny_model import ASSISTANT, BOS, EOS, SYSTEM, USER
from wire.messages import Failed, Prefilled, StepOutputs, Submit
from wire.sampling import TokenRules

TEXT = "two wheels and two riders"
TOOL: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest_asyncio.fixture
async def client(stage: Stage) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai_client(stage) as client:
        yield client


async def events(stage: Stage, path: str, body: dict[str, Any]) -> list[Any]:
    """Every event of a stream; [DONE] as text."""
    async with http_client(stage) as http:
        response = await http.post(path, json={"stream": True, **body})
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.strip().split("\n\n")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def test_several_prompts_are_as_many_choices_in_their_order(
    stage: Stage, client: openai.AsyncOpenAI, backend: Tokenizer
) -> None:
    prefill, _ = await stage.add_pair(ids(backend, TEXT))
    for nth, prompt in enumerate((["the fox", "a dog"], [[7, 8], [9]])):
        answer = await client.completions.create(
            model="tiny", prompt=prompt, max_tokens=99, echo=True
        )
        texts = prompt if nth == 0 else [backend.decode([7, 8]), backend.decode([9])]
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert [choice.text for choice in answer.choices] == [text + TEXT for text in texts]
        submits = [await prefill.hears(Submit, 2 * nth + each) for each in (1, 2)]
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == sum(len(submit.tokens) for submit in submits)
        assert answer.usage.completion_tokens == 2 * (len(ids(backend, TEXT)) + 1)


async def test_an_echo_comes_first_in_a_stream(stage: Stage, backend: Tokenizer) -> None:
    await stage.add_pair(ids(backend, TEXT))
    body = {"prompt": ["the fox", "a dog"], "echo": True, "max_tokens": 99}
    *chunks, done = await events(stage, "/v1/completions", body)
    assert done == "[DONE]"
    for index, prompt in enumerate(body["prompt"]):  # type: ignore[arg-type]
        choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert choices[0]["text"] == prompt
        assert "".join(choice["text"] for choice in choices) == prompt + TEXT


async def test_a_chunk_has_every_field_of_its_kind(stage: Stage, backend: Tokenizer) -> None:
    """The short way of making chunks makes what the long way would."""
    await stage.add_pair(ids(backend, TEXT))
    for usage in (False, True):
        options = {"stream_options": {"include_usage": usage}}
        chat = await events(stage, "/v1/chat/completions", {"messages": MESSAGES, **options})
        first, piece, *_, last, done = chat
        assert done == "[DONE]"
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert piece.keys() == first.keys()
        assert piece["choices"][0].keys() == first["choices"][0].keys()
        assert piece["object"] == "chat.completion.chunk"
        assert ("usage" in piece) == usage
        assert (last["choices"] == []) == usage
        body = {"prompt": "a", "max_tokens": 99, **options}
        piece, *others = await events(stage, "/v1/completions", body)
        ending = next(each for each in others if each["choices"][0]["finish_reason"])
        assert piece.keys() == ending.keys()
        assert piece["choices"][0].keys() == ending["choices"][0].keys()


async def test_usage_can_be_told_with_every_chunk(stage: Stage, backend: Tokenizer) -> None:
    script = ids(backend, TEXT)
    prefill, _ = await stage.add_pair(script)
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"messages": MESSAGES, "stream_options": options}
    *chunks, last, _ = await events(stage, "/v1/chat/completions", body)
    num_prompt = len((await prefill.hears(Submit)).tokens)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == len(script) + 1
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {num_prompt}
    assert last["usage"]["total_tokens"] == num_prompt + len(script) + 1
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}


async def test_token_ids_can_be_told(stage: Stage, backend: Tokenizer) -> None:
    script = ids(backend, TEXT)
    await stage.add_pair(script)
    body = {"prompt": [7, 8], "return_token_ids": True, "max_tokens": 99}
    first, *chunks, _ = await events(stage, "/v1/completions", body)
    assert first["choices"][0]["prompt_token_ids"] == [7, 8]
    told = [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]]
    assert told == [*script, EOS]
    async with http_client(stage) as http:
        whole = (await http.post("/v1/completions", json=body)).json()["choices"][0]
        asked = {"messages": MESSAGES, "return_token_ids": True}
        chat = (await http.post("/v1/chat/completions", json=asked)).json()
    assert (whole["prompt_token_ids"], whole["token_ids"]) == ([7, 8], [*script, EOS])
    assert chat["choices"][0]["token_ids"] == [*script, EOS]
    assert chat["prompt_token_ids"] == [BOS, USER, *ids(backend, "the fox"), EOS, ASSISTANT]


async def test_biased_allowed_and_bad_tokens_reach_the_worker(
    stage: Stage, client: openai.AsyncOpenAI, backend: Tokenizer
) -> None:
    prefill, _ = await stage.add_pair([65])
    await client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        logit_bias={"9": -100, "11": 5},
        extra_body={"allowed_token_ids": [9, 11, 12], "bad_words": ["fox"]},
    )
    rules = (await prefill.hears(Submit)).sampling.rules
    banned = tuple(ids(backend, "fox")), tuple(ids(backend, " fox"))
    assert rules == TokenRules(((9, -100.0), (11, 5.0)), (9, 11, 12), banned)


async def test_a_stop_can_be_part_of_the_text(
    stage: Stage, client: openai.AsyncOpenAI, backend: Tokenizer
) -> None:
    await stage.add_pair(ids(backend, TEXT))
    for stop, included, text in [
        ("and", False, "two wheels "),
        ("and", True, "two wheels and"),
    ]:
        answer = await client.completions.create(
            model="tiny",
            prompt="a",
            max_tokens=99,
            stop=stop,
            extra_body={"include_stop_str_in_output": included},
        )
        assert answer.choices[0].text == text
        assert answer.choices[0].finish_reason == "stop"
        assert answer.choices[0].model_extra == {"stop_reason": "and"}


async def test_special_tokens_can_be_shown(
    stage: Stage, client: openai.AsyncOpenAI, backend: Tokenizer
) -> None:
    await stage.add_pair([*ids(backend, "two"), USER, *ids(backend, "wheels")])
    for skips, text in [(True, "twowheels"), (False, "two<|user|>wheels")]:
        answer = await client.completions.create(
            model="tiny", prompt="a", max_tokens=99, extra_body={"skip_special_tokens": skips}
        )
        assert answer.choices[0].text == text


async def test_prompts_are_cut_and_begun_as_the_client_wants(
    stage: Stage, client: openai.AsyncOpenAI, backend: Tokenizer
) -> None:
    prefill, _ = await stage.add_pair([65])
    asked: list[dict[str, Any]] = [
        {"truncate_prompt_tokens": 3},
        {"add_special_tokens": False},
        {"truncate_prompt_tokens": -1},
    ]
    text = "the quick brown fox"
    for extra in asked:
        await client.completions.create(model="tiny", prompt=text, extra_body=extra)
    tokens = (BOS, *ids(backend, text))
    got = [(await prefill.hears(Submit, nth)).tokens for nth in (1, 2, 3)]
    assert got == [tokens[-3:], tokens[1:], tokens]
    await client.completions.create(
        model="tiny", prompt="a " * 300, extra_body={"truncate_prompt_tokens": -1}, max_tokens=6
    )
    assert len((await prefill.hears(Submit, 4)).tokens) == 250


async def test_tools_their_calls_and_results_reach_the_model(
    stage: Stage, client: openai.AsyncOpenAI, backend: Tokenizer
) -> None:
    prefill, _ = await stage.add_pair([65])
    messages: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "3"},
    ]
    for choice in ("auto", "none"):
        await client.chat.completions.create(
            model="tiny", messages=messages, tools=[TOOL], tool_choice=choice, max_tokens=4
        )
    shown = f"<|system|>{json.dumps([TOOL])}<|eos|>"
    rest = '<|system|>a<|eos|><|assistant|>add({"a": 1})<|eos|><|tool|>3<|eos|><|assistant|>'
    for nth, tools in enumerate((shown, ""), start=1):
        text = backend.decode((await prefill.hears(Submit, nth)).tokens, skip_special_tokens=False)
        assert text == "<|bos|>" + tools + rest


async def test_a_final_message_can_be_continued(
    stage: Stage, client: openai.AsyncOpenAI, backend: Tokenizer
) -> None:
    prefill, _ = await stage.add_pair([65])
    messages: Any = [*MESSAGES, {"role": "assistant", "content": "two wh"}]
    await client.chat.completions.create(
        model="tiny",
        messages=messages,
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )
    text = backend.decode((await prefill.hears(Submit)).tokens, skip_special_tokens=False)
    assert text == "<|bos|><|user|>the fox<|eos|><|assistant|>two wh"


async def test_a_template_of_the_request_is_used_where_the_operator_allows_it(
    start_stage: StartStage, backend: Tokenizer
) -> None:
    stage = await start_stage(trust_request_templates=True)
    prefill, _ = await stage.add_pair([65])
    body = {
        "messages": MESSAGES,
        "chat_template": "{{ greeting }} {{ messages[0].content }} {{ reasoning_effort }}",
        "chat_template_kwargs": {"greeting": "hi"},
        "reasoning_effort": "low",
    }
    async with http_client(stage) as http:
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
        broken = await http.post("/v1/chat/completions", json={**body, "chat_template": "{% if"})
    assert (await prefill.hears(Submit)).tokens == (*ids(backend, "hi the fox low"),)
    assert broken.json()["error"]["param"] == "chat_template"


async def test_a_stream_interval_makes_fewer_and_larger_chunks(
    stage: Stage, backend: Tokenizer
) -> None:
    script = ids(backend, "abcdefghijklmnopqrstuvw")
    await stage.add_pair(script)
    body = {"prompt": "a", "max_tokens": 99, "stream_interval": 10, "return_token_ids": True}
    opening, *chunks, _ = await events(stage, "/v1/completions", body)
    assert opening["choices"][0]["prompt_token_ids"]
    sizes = [len(chunk["choices"][0]["token_ids"]) for chunk in chunks]
    assert sizes[0] == 1
    assert all(size >= 10 for size in sizes[1:-1])
    assert sum(sizes) == len(script) + 1


async def test_text_that_was_held_back_comes_before_an_error(
    stage: Stage, backend: Tokenizer
) -> None:
    prefill, _ = await stage.add_pair(ids(backend, TEXT))

    async def breaks(submit: Submit) -> None:
        prefill.send(
            Prefilled(attempt_id=submit.attempt_id, queue_s=0, prefill_s=0, cached_tokens=0)
        )
        for output in prefill.answer(submit)[:5]:
            prefill.send(StepOutputs(outputs=(output,)))
        prefill.send(
            Failed(attempt_id=submit.attempt_id, stage="decode", cause="broken", retryable=False)
        )

    prefill.serve = breaks
    body = {"prompt": "a", "stream_interval": 50}
    *chunks, error = await events(stage, "/v1/completions", body)
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert text == backend.decode(ids(backend, TEXT)[:5])
    assert error["error"]["type"] == "server_error"


async def test_a_request_without_a_name_gets_one_which_errors_tell_too(stage: Stage) -> None:
    await stage.add_pair([65])
    async with http_client(stage) as http:
        good = await http.post("/v1/completions", json={"prompt": "a"})
        bad = await http.post("/v1/completions", json={"prompt": "a", "n": 0})
        named = await http.post("/v1/completions", json={"n": 0}, headers={"X-Request-Id": "mine"})
        strange = await http.post("/v1/completions", json={"request_id": "a\r\nb", "prompt": "a"})
    assert good.json()["id"] == f"cmpl-{good.headers['x-request-id']}"
    assert bad.headers["x-request-id"] != good.headers["x-request-id"]
    assert named.headers["x-request-id"] == "mine"
    assert strange.status_code == 400
    assert "x-request-id" not in strange.headers


@pytest.mark.parametrize(
    "extra",
    [
        {"user": "me", "metadata": {}, "store": False, "service_tier": "auto"},
        {"spaces_between_special_tokens": False, "vllm_xargs": {}, "stream_options": None},
        {"priority": -5, "slo": {"ttft_s": 0.5, "tpot_s": 0.05}, "best_of": 1},
        {"response_format": {"type": "text"}, "logit_bias": {}, "bad_words": []},
    ],
)
async def test_what_changes_no_token_is_taken(stage: Stage, extra: dict[str, Any]) -> None:
    await stage.add_pair([65])
    async with http_client(stage) as http:
        for path, body in (
            ("/v1/completions", {"prompt": "a"}),
            ("/v1/chat/completions", {"messages": MESSAGES, "max_completion_tokens": 3}),
        ):
            response = await http.post(path, json={**body, **extra})
            assert response.status_code == 200, response.text


async def test_a_cached_chat_with_tools_counts_the_system_prompt_once(
    stage: Stage, backend: Tokenizer
) -> None:
    prefill, _ = await stage.add_pair([65])
    async with http_client(stage) as http:
        body = {"messages": MESSAGES, "tools": [TOOL], "max_tokens": 3}
        answer = (await http.post("/v1/chat/completions", json=body)).json()
    submit = await prefill.hears(Submit)
    assert submit.tokens[:2] == (BOS, SYSTEM)
    assert answer["usage"]["prompt_tokens"] == len(submit.tokens)


class Person(pydantic.BaseModel):
    name: str


async def test_the_clients_own_helpers_put_streams_together(
    stage: Stage, client: openai.AsyncOpenAI, backend: Tokenizer
) -> None:
    script = ids(backend, '{"name": "ada"}')
    await stage.add_pair(script)
    async with client.chat.completions.stream(
        model="tiny",
        messages=MESSAGES,
        response_format=Person,
        n=2,
        logprobs=True,
        stream_options={"include_usage": True},
    ) as stream:
        final = await stream.get_final_completion()
    for choice in final.choices:
        assert choice.message.parsed == Person(name="ada")
        assert choice.logprobs is not None
        assert len(choice.logprobs.content or []) == len(script) + 1
    assert final.usage is not None
    assert final.usage.completion_tokens == 2 * (len(script) + 1)
    whole = await client.chat.completions.parse(
        model="tiny", messages=MESSAGES, response_format=Person
    )
    assert whole.choices[0].message.parsed == Person(name="ada")


async def test_the_clients_own_errors_are_raised(stage: Stage, client: openai.AsyncOpenAI) -> None:
    cases: list[tuple[type[openai.APIStatusError], dict[str, Any]]] = [
        (openai.NotFoundError, {"model": "other"}),
        (openai.BadRequestError, {"temperature": 3}),
        (openai.InternalServerError, {}),  # no worker is there
    ]
    for kind, fields in cases:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(
                **{"model": "tiny", "messages": MESSAGES, **fields}
            )
        assert caught.value.request_id
        assert caught.value.type
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model="tiny", input="a")
