"""Log-probabilities of prompts, as evaluation harnesses ask for them."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.router.conftest import Stage
from tests.router.fake_worker import fake_logprob
from tests.router.test_generate import generate, ids
from tests.router.test_http import MESSAGES
from tests.router.test_invalid_requests import http_client
from tests.router.tiny_model import BOS, EOS
from wire import inference_pb2 as pb
from wire.identity import Role
from wire.messages import Submit

TEXT = "the quick brown fox"
HARNESS = {"model": "tiny", "temperature": 0, "logprobs": 1, "echo": True, "seed": 1234}


async def complete(stage: Stage, **fields: Any) -> dict[str, Any]:
    async with http_client(stage) as http:
        response = await http.post("/v1/completions", json={**HARNESS, **fields})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("as_ids", [True, False])
async def test_a_harness_is_told_the_prompts_own(
    stage: Stage, backend: Tokenizer, max_tokens: int, as_ids: bool
) -> None:
    """lm-eval's local-completions: the sum over the continuation, and whether it is greedy."""
    await stage.add_pair(ids(backend, " jumps"))
    prompt = [BOS, *ids(backend, TEXT)]
    body = await complete(stage, prompt=[prompt] if as_ids else TEXT, max_tokens=max_tokens)
    (choice,) = body["choices"]
    logprobs = choice["logprobs"]
    made = ids(backend, " jumps")[:max_tokens]
    assert choice["text"] == TEXT + backend.decode(made)
    assert len(logprobs["tokens"]) == len(prompt) + len(made)
    assert logprobs["tokens"][0] == "<|bos|>"
    assert logprobs["token_logprobs"] == [None, *(-token / 100 for token in [*prompt[1:], *made])]
    assert logprobs["top_logprobs"][0] is None
    for token, top in zip(logprobs["tokens"][1:], logprobs["top_logprobs"][1:], strict=True):
        assert token == max(top, key=top.__getitem__)
    assert logprobs["text_offset"][:2] == [0, 0]
    assert "".join(logprobs["tokens"][1:]) == choice["text"]
    assert choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == max_tokens


async def test_many_prompts_have_theirs_each(stage: Stage, backend: Tokenizer) -> None:
    await stage.add("lone", Role.DECODE, script=[65])
    prompts = [ids(backend, "the fox"), ids(backend, "a wheel")]
    body = await complete(stage, prompt=prompts, max_tokens=1, n=2)
    found = {it["index"]: it["logprobs"]["token_logprobs"][:-1] for it in body["choices"]}
    for index, prompt in enumerate(prompts):
        expected = [None, *(-token / 100 for token in prompt[1:])]
        assert found[2 * index] == found[2 * index + 1] == expected


async def test_only_the_first_of_several_answers_asks_for_them(
    stage: Stage, backend: Tokenizer
) -> None:
    worker = await stage.add("lone", Role.DECODE, script=[65])
    await complete(stage, prompt=TEXT, max_tokens=1, n=3)
    asked = [(await worker.hears(Submit, nth)).sampling.prompt_logprobs for nth in (1, 2, 3)]
    assert asked == [1, None, None]


async def test_a_stream_begins_with_the_prompt_and_its_own(
    stage: Stage, backend: Tokenizer
) -> None:
    await stage.add_pair(ids(backend, " jumps"))
    async with http_client(stage) as http:
        fields = {**HARNESS, "prompt": TEXT, "max_tokens": 0, "stream": True}
        response = await http.post("/v1/completions", json=fields)
    first, last, done = response.text.strip().split("\n\n")
    assert f'"text":"{TEXT}"' in first
    assert '"token_logprobs":[null,' in first
    assert '"finish_reason":"length"' in last
    assert done == "data: [DONE]"


async def test_vllms_field_is_answered_by_token_id(stage: Stage, backend: Tokenizer) -> None:
    await stage.add_pair([65])
    prompt = ids(backend, "the fox")
    body = await complete(stage, prompt=prompt, max_tokens=1, echo=False, prompt_logprobs=2)
    (choice,) = body["choices"]
    assert choice["text"] == backend.decode([65])
    nothing, *told = choice["prompt_logprobs"]
    assert nothing is None
    for token, entry in zip(prompt[1:], told, strict=True):
        assert set(entry) == {str(token), str(token + 1)}
        assert entry[str(token)] == {
            "logprob": -token / 100,
            "rank": 1,
            "decoded_token": backend.decode([token]),
        }
    async with http_client(stage) as http:
        asked = {"messages": MESSAGES, "max_tokens": 0, "prompt_logprobs": 0}
        chat = (await http.post("/v1/chat/completions", json=asked)).json()
    assert chat["choices"][0]["message"]["content"] == ""
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]
    assert chat["usage"]["completion_tokens"] == 0


async def test_grpc_tells_them_with_the_first_message(stage: Stage, backend: Tokenizer) -> None:
    prefill, _ = await stage.add_pair([65, 66])
    prompt = ids(backend, TEXT)
    request = {"token_ids": pb.TokenIds(ids=prompt), "text": None, "prompt_logprobs": 1}
    request.pop("text")
    call = stage.stub.Generate(pb.GenerateRequest(**request, max_tokens=2))
    first, *rest = [response async for response in call]
    assert [it.token_id for it in first.prompt_logprobs] == prompt[1:]
    assert first.prompt_logprobs[0].logprob == fake_logprob(prompt[1], 1).logprob
    assert not any(response.prompt_logprobs for response in rest)
    alone = await generate(stage, text=TEXT, max_tokens=0, prompt_logprobs=0)
    assert len(alone[0].prompt_logprobs) == len(prompt)  # with a beginning of sequence
    assert (alone[-1].finish_reason, alone[-1].usage.completion_tokens) == (
        pb.FINISH_REASON_LENGTH,
        0,
    )
    assert not any(response.token_ids for response in alone)
    assert (await prefill.hears(Submit, 2)).sampling.max_tokens == 1


async def test_an_answer_that_would_end_at_once_is_not_told(stage: Stage) -> None:
    """The token that is drawn all the same was not asked for."""
    await stage.add_pair([EOS])
    body = await complete(stage, prompt=TEXT, max_tokens=0)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["stop_reason"] is None


async def test_after_a_failure_what_came_already_is_not_asked_for_again(
    stage: Stage, backend: Tokenizer
) -> None:
    first = await stage.add("first", Role.DECODE, script=[65, 66, 67])
    first.hold_after = 1
    call = stage.call(text=TEXT, max_tokens=3, prompt_logprobs=1)
    answers = aiter(call)
    told = await anext(answers)
    assert len(told.prompt_logprobs) == len(ids(backend, TEXT))
    second = await stage.add("second", Role.DECODE, script=[65, 66, 67])
    await first.die()
    rest = [response async for response in answers]
    assert not any(response.prompt_logprobs for response in rest)
    assert (await second.hears(Submit)).sampling.prompt_logprobs is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_tokens": 0, "echo": False}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    stage: Stage, fields: dict[str, Any], field: str
) -> None:
    async with http_client(stage) as http:
        asked = {**HARNESS, "prompt": TEXT, **fields}
        response = await http.post("/v1/completions", json=asked)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
