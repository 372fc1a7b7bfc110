"""Tokens reach the client's connection in the call that brings them from a worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx2
import pytest
from tokenizers import Tokenizer

from router.answers.sink import StreamSink
from router.grpc_api import door
from router.grpc_api.call_writer import CallWriter
from router.http.http_answer import EventWriter
from router.requests.request import Delta
from tests.router.conftest import Stage
from tests.router.test_generate import ids
from tests.router.test_invalid_requests import http_client
from wire import inference_pb2 as pb
from wire.messages import Cancel, Failed, StepOutputs, Submit

TEXT = "two wheels 😀 and two riders"


class Calls:
    """How deltas were written: in a task of the fleet's, or in another."""

    def __init__(self) -> None:
        self.in_fleet: list[int] = []
        self.elsewhere: list[int] = []

    def record(self, delta: Delta) -> None:
        task = asyncio.current_task()
        in_fleet = task is not None and task.get_name().startswith("member ")
        (self.in_fleet if in_fleet else self.elsewhere).extend(delta.tokens)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    found = Calls()
    for writer in (EventWriter, CallWriter):
        monkeypatch.setattr(writer, "write", _recorded(writer.write, found))
    return found


def _recorded(write: Any, calls: Calls) -> Any:
    def recorded(writer: Any, delta: Delta) -> None:
        calls.record(delta)
        write(writer, delta)

    return recorded


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


@pytest.mark.parametrize("more", [{}, {"stop": ["never"]}, {"n": 2}, {"stream_interval": 3}])
async def test_over_http_all_tokens_are_written_where_they_arrive(
    stage: Stage, backend: Tokenizer, calls: Calls, more: dict[str, Any]
) -> None:
    """The first and the last, too, and whatever the client asked for."""
    script = ids(backend, TEXT)
    await stage.add_pair(script)
    await answer(stage, **more)
    num_answers = more.get("n", 1)
    held_at_the_end = len(calls.elsewhere)
    assert held_at_the_end < more.get("stream_interval", 1), "its ending takes those with it"
    assert len(calls.in_fleet) + held_at_the_end == (len(script) + 1) * num_answers


async def test_over_grpc_a_token_waits_at_most_for_the_write_of_the_one_before(
    stage: Stage, backend: Tokenizer, calls: Calls
) -> None:
    script = ids(backend, TEXT)
    _, decode = await stage.add_pair(script)
    decode.hold_after = 2
    told = aiter(stage.call(text="a", max_tokens=99))
    responses = [await anext(told)]
    while sum(len(response.token_ids) for response in responses) < 2:
        responses.append(await anext(told))
    num_before = len(calls.in_fleet)
    decode.release.set()
    responses += [response async for response in told]
    assert "".join(response.text for response in responses) == TEXT
    assert calls.in_fleet[num_before] == script[2], "those behind it may wait for its write"


async def test_after_a_loss_the_answer_goes_on_where_it_was(
    stage: Stage, backend: Tokenizer
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


async def test_a_stop_string_ends_the_answer_and_cancels_it_on_its_worker(
    stage: Stage, backend: Tokenizer
) -> None:
    _, decode = await stage.add_pair(ids(backend, TEXT))
    assert await answer(stage, stop=["and"]) == TEXT.split("and")[0]
    await decode.hears(Cancel)


async def test_an_error_in_that_call_is_the_request_s_own(
    stage: Stage, backend: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told after what came before it, and the worker's session goes on."""
    write = EventWriter.write

    def fail_at_the_third(writer: EventWriter, delta: Delta) -> None:
        if delta.tokens == (script[2],):
            raise RuntimeError("for the test")
        write(writer, delta)

    monkeypatch.setattr(EventWriter, "write", fail_at_the_third)
    script = ids(backend, TEXT)
    prefill, decode = await stage.add_pair(script)
    async with streamed(stage) as response:
        *before, last = [line async for line in response.aiter_lines() if line]
    texts = [json.loads(line[6:])["choices"][0]["text"] for line in before]
    assert "".join(texts) == backend.decode(script[:2])
    assert "RuntimeError" in json.loads(last[6:])["error"]["message"]
    assert await stage.server.conductor.wait_idle(60)
    await decode.hears(Cancel)
    monkeypatch.undo()
    assert await answer(stage) == TEXT
    assert stage.view(prefill).ready


class SlowClient:
    """A client over gRPC that reads nothing until the test says so."""

    def __init__(self) -> None:
        self.is_slow = True
        self.sinks: list[StreamSink] = []

    def reads_on(self) -> None:
        self.is_slow = False
        (sink,) = self.sinks
        sink._resume()


@pytest.fixture
def slow_client(monkeypatch: pytest.MonkeyPatch) -> SlowClient:
    client, ready = SlowClient(), CallWriter.ready

    def make_sink(*args: Any) -> StreamSink:
        client.sinks.append(StreamSink(*args))
        return client.sinks[-1]

    monkeypatch.setattr(CallWriter, "ready", lambda writer: not client.is_slow and ready(writer))
    monkeypatch.setattr(door, "StreamSink", make_sink)
    return client


async def test_workers_do_not_wait_for_a_slow_client(
    stage: Stage, backend: Tokenizer, slow_client: SlowClient
) -> None:
    """The attempt ends with its last token; the client then gets what was joined, as one."""
    script = ids(backend, TEXT)
    _, decode = await stage.add_pair(script)
    call = stage.call(text="a", max_tokens=99)
    await stage.until(
        lambda: decode.num_sent > len(script) and not stage.server.conductor._journeys
    )
    assert stage.server.conductor.num_in_flight == 1
    assert stage.server.conductor.unread.num_bytes > 0
    slow_client.reads_on()
    (whole,) = [response async for response in call]
    assert (whole.text, whole.finish_reason) == (TEXT, pb.FINISH_REASON_STOP)
    assert list(whole.token_ids)[:-1] == script
    assert stage.server.conductor.unread.num_bytes == 0


async def test_a_slow_client_gets_each_token_once_though_a_worker_was_lost(
    stage: Stage, backend: Tokenizer, slow_client: SlowClient
) -> None:
    script = ids(backend, TEXT)
    prefill, decode = await stage.add_pair(script)
    decode.hold_after = 5
    call = stage.call(text="a", max_tokens=99)
    await stage.until(lambda: decode.num_sent >= 5)
    await decode.die()
    await prefill.hears(Submit, 2)
    await stage.until(lambda: not stage.server.conductor._journeys)
    slow_client.reads_on()
    (whole,) = [response async for response in call]
    assert whole.text == TEXT
    assert list(whole.token_ids)[:-1] == script
    assert whole.served_by.attempts == 2


async def test_a_slow_client_gets_what_came_before_an_error(
    stage: Stage, backend: Tokenizer, slow_client: SlowClient
) -> None:
    script = ids(backend, TEXT)
    prefill, _ = await stage.add_pair(script)

    async def breaks(submit: Submit) -> None:
        prefill.send(StepOutputs(outputs=tuple(prefill.answer(submit)[:3])))
        prefill.send(
            Failed(attempt_id=submit.attempt_id, stage="decode", cause="broken", retryable=False)
        )

    prefill.serve = breaks
    call = stage.call(text="a", max_tokens=99)
    await prefill.hears(Cancel)
    slow_client.reads_on()
    told = aiter(call)
    assert list((await anext(told)).token_ids) == script[:3]
    with pytest.raises(grpc.aio.AioRpcError, match="broken"):
        await anext(told)
