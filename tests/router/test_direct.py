"""The short way of tokens, past the tasks that wait for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

import httpx2
import pytest
from tokenizers import Tokenizer

from router.answers.direct import Direct
from router.fleet.mailbox import Mailbox, RouterStops
from tests.router.conftest import Stage
from tests.router.test_generate import ids
from tests.router.test_invalid_requests import http_client
from wire.messages import Output, Submit

TEXT = "two wheels 😀 and two riders"


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """What went the short way."""
    found: list[list[int]] = []
    take = Direct.take

    def record(direct: Direct, output: Output) -> None:
        found.append(list(output.tokens))
        take(direct, output)

    monkeypatch.setattr(Direct, "take", record)
    return found


@asynccontextmanager
async def streamed(stage: Stage, **fields: Any) -> AsyncIterator[httpx2.Response]:
    body = {"model": "tiny", "prompt": "a", "max_tokens": 99, "stream": True, **fields}
    async with (
        http_client(stage) as http,
        http.stream("POST", "/v1/completions", json=body) as response,
    ):
        yield response


async def pieces(response: httpx2.Response) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])["choices"][0]["text"]


async def answer(stage: Stage, **fields: Any) -> str:
    async with streamed(stage, **fields) as response:
        return "".join([piece async for piece in pieces(response)])


async def test_tokens_in_the_middle_take_it_and_all_are_told(
    stage: Stage, backend: Tokenizer, taken: list[list[int]]
) -> None:
    script = ids(backend, TEXT)
    _, decode = await stage.add_pair(script)
    decode.hold_after = 2
    async with streamed(stage) as response:
        told = pieces(response)
        text = await anext(told)
        await stage.until(lambda: waits_for_its_destination_alone(stage, num_tokens=2))
        taken.clear()
        decode.release.set()
        text += "".join([piece async for piece in told])
    assert text == TEXT
    assert list(chain(*taken)) == script[2:], "all of them, and not the end"


async def test_over_grpc_they_take_it_too(
    stage: Stage, backend: Tokenizer, taken: list[list[int]]
) -> None:
    script = ids(backend, TEXT)
    _, decode = await stage.add_pair(script)
    decode.hold_after = 2
    told = aiter(stage.call(text="a", max_tokens=99))
    responses = [await anext(told)]
    await stage.until(lambda: waits_for_its_destination_alone(stage, num_tokens=2))
    taken.clear()
    decode.release.set()
    responses += [response async for response in told]
    assert "".join(response.text for response in responses) == TEXT
    assert taken[0] == script[2:3], "those behind it may have waited for its write"


def waits_for_its_destination_alone(stage: Stage, num_tokens: int) -> bool:
    """The one journey has all that was said so far, the first worker's last word included."""
    (journey,) = stage.server.conductor._journeys
    reader, record = journey._mailbox._reader, journey.record
    return (
        record.complete
        and record.released
        and len(journey._merger.sequence) - journey._merger.num_prompt == num_tokens
        and reader is not None
        and not reader.done()
    )


async def test_a_stop_string_keeps_all_tokens_on_the_long_way(
    stage: Stage, backend: Tokenizer, taken: list[list[int]]
) -> None:
    await stage.add_pair(ids(backend, TEXT))
    assert await answer(stage, stop=["and"]) == TEXT.split("and")[0]
    assert not taken


async def test_after_a_loss_the_answer_goes_on_where_it_was(
    stage: Stage, backend: Tokenizer, taken: list[list[int]]
) -> None:
    script = ids(backend, TEXT)
    prefill, decode = await stage.add_pair(script)
    decode.hold_after = 6
    call = asyncio.create_task(answer(stage))
    await prefill.hears(Submit)
    await stage.until(lambda: decode.num_sent >= 6)
    await decode.die()
    assert await call == TEXT
    assert (await prefill.hears(Submit, 2)).attempt_id.number == 1


async def test_an_error_on_the_short_way_is_the_request_s_own(
    stage: Stage, backend: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(direct: Direct, output: Output) -> None:
        raise RuntimeError("for the test")

    monkeypatch.setattr(Direct, "take", fail)
    script = ids(backend, TEXT)
    _, decode = await stage.add_pair(script)
    decode.hold_after = 2
    async with streamed(stage) as response:
        lines = response.aiter_lines()
        first = await anext(lines)
        decode.release.set()
        rest = [line async for line in lines if line.startswith("data: ")]
    assert first.startswith("data: {")
    assert "RuntimeError" in json.loads(rest[-1][6:])["error"]["message"]
    assert await stage.server.conductor.wait_idle(60)


async def test_a_mailbox_offers_news_directly_only_to_a_reader_who_has_read_all() -> None:
    mailbox, offered = Mailbox(), []

    def take(sender: object, news: object) -> bool:
        offered.append(news)
        return len(offered) < 3

    mailbox.direct = take
    first, *others = [RouterStops() for _ in range(5)]
    mailbox.put(None, first)
    assert await mailbox.take() == [(None, first)]
    assert not offered, "nobody waited"
    reading = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    for news in others:
        mailbox.put(None, news)
    assert len(offered) == 3
    assert await reading == [(None, others[2]), (None, others[3])], "what came behind waits too"
