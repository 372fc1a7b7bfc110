"""Answers of a model whose tokenizer drops the blank before a text, through the doors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from router.text.tokenizer import Tokenizer
from tests.router.conftest import Stage, StartStage
from tests.router.fake_worker import FakeWorker
from tests.router.families import family_tokenizer, write_family
from tests.router.test_invalid_requests import http_client
from tests.router.tiny_model import one_model
from wire.identity import Role
from wire.messages import Submit

PROMPT = "The capital of France is"
ANSWER = " Paris. Hello true world"
TEMPLATE = "{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}"
Complete = Callable[..., Awaitable[list[dict[str, Any]]]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = write_family("llama2", tmp_path / "tiny")
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return family_tokenizer("llama2", tmp_path / "same")


@pytest.fixture
def script(tokenizer: Tokenizer) -> list[int]:
    """The answer as it follows the prompt."""
    return tokenizer.encode_text(PROMPT + ANSWER)[len(tokenizer.encode_text(PROMPT)) :]


@pytest.fixture
async def stage(start_stage: StartStage, directory: Path) -> Stage:
    return await start_stage(models=one_model(directory))


@pytest.fixture
def complete(stage: Stage) -> Complete:
    async def complete(path: str = "completions", **fields: Any) -> list[dict[str, Any]]:
        async with http_client(stage) as http:
            response = await http.post(f"/v1/{path}", json={"max_tokens": 20, **fields})
        assert response.status_code == 200, response.text
        return list(response.json()["choices"])

    return complete


async def test_it_begins_with_its_blank(
    stage: Stage, complete: Complete, tokenizer: Tokenizer, script: list[int]
) -> None:
    await stage.add_pair(script, max_model_len=64)
    ids = tokenizer.encode_text(PROMPT)
    count = len(script)
    plain = await complete(prompt=PROMPT, max_tokens=count)
    of_ids = await complete(prompt=ids, max_tokens=count)
    several = await complete(prompt=PROMPT, max_tokens=count, n=2)
    assert [it["text"] for it in plain + of_ids + several] == [ANSWER] * 4
    for prompt in (PROMPT, ids):
        (echoed,) = await complete(prompt=prompt, max_tokens=count, echo=True)
        assert echoed["text"] == PROMPT + ANSWER


async def test_a_chats_answer_follows_the_templates_last_word(
    stage: Stage, complete: Complete, script: list[int]
) -> None:
    """As with vLLM, whose stream starts from the prompt, too."""
    await stage.add_pair(script, max_model_len=64)
    asked = {"messages": [{"role": "user", "content": "where"}], "max_tokens": len(script)}
    (choice,) = await complete("chat/completions", **asked)
    assert choice["message"]["content"] == ANSWER


@pytest.mark.parametrize(("stop", "text"), [(" Paris", ""), (" Par", ""), ("Paris", " ")])
async def test_a_stop_may_begin_with_that_blank(
    stage: Stage, complete: Complete, script: list[int], stop: str, text: str
) -> None:
    await stage.add_pair(script, max_model_len=64)
    (choice,) = await complete(prompt=PROMPT, stop=stop)
    assert (choice["text"], choice["stop_reason"]) == (text, stop)


async def test_an_answer_that_another_worker_goes_on_with_is_one_text(
    stage: Stage, complete: Complete, script: list[int]
) -> None:
    first = await stage.add("first", Role.DECODE, script=script, max_model_len=64)
    first.hold_after = 1
    call = stage.call(text=PROMPT, max_tokens=len(script))
    answers = aiter(call)
    told = (await anext(answers)).text
    assert told == ANSWER[: len(told)] != ANSWER
    await stage.add("second", Role.DECODE, script=script, max_model_len=64)
    await first.die()
    assert told + "".join([answer.text async for answer in answers]) == ANSWER


async def test_a_bad_word_is_kept_from_every_place_in_a_text(
    stage: Stage, complete: Complete, tokenizer: Tokenizer, script: list[int]
) -> None:
    """Behind a blank, and behind something else: there its first token is another."""
    worker: FakeWorker = await stage.add("lone", Role.DECODE, script=script, max_model_len=64)
    await complete(prompt=PROMPT, bad_words=["true"])
    rules = (await worker.hears(Submit)).sampling.rules
    assert rules is not None
    banned = {b"".join(map(tokenizer.token_bytes, run)) for run in rules.banned}
    assert {b" true", b"true"} <= banned
