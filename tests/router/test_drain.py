"""A router that leaves: health checks fail, clients go elsewhere, and what runs ends whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tokenizers import Tokenizer

from tests.router.conftest import Stage, StartStage
from tests.router.test_generate import generate, text_of
from tests.router.test_invalid_requests import failure, http_client
from wire import inference_pb2 as pb
from wire.identity import Role

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
PROMPT = {"prompt": "a", "max_tokens": 9}


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


async def begun(stage: Stage) -> None:
    """Until the drain is under way."""
    await stage.until(lambda: stage.server.conductor.draining)


async def over(stage: Stage) -> None:
    """Until the grace is over."""
    await stage.until(lambda: stage.server.conductor.refuses)


async def test_while_the_grace_lasts_only_health_checks_fail(start_stage: StartStage) -> None:
    """Requests are served, and each answer closes its connection; the last one ends the grace."""
    stage = await start_stage(drain_grace_s=60)
    await stage.add("lone", Role.DECODE, script=[65, 66])
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(stage.addresses.http))
    drain = asyncio.create_task(stage.server.drain(60))
    await begun(stage)
    check = health_pb2.HealthCheckRequest(service="")
    assert (await health_pb2_grpc.HealthStub(stage.channel).Check(check)).status == NOT_SERVING
    assert text_of(await generate(stage))
    async with http_client(stage) as http:
        sick = await http.get("/health")
        served = await http.post("/v1/completions", json=PROMPT)
    assert (sick.status_code, sick.json()) == (503, {"status": "draining"})
    assert served.status_code == 200
    assert {sick.headers["connection"], served.headers["connection"]} == {"close"}
    assert not stage.server.conductor.refuses
    writer.close()
    assert await drain
    assert await reader.read() == b""


async def test_after_it_nothing_listens_and_idle_connections_are_closed(
    start_stage: StartStage,
) -> None:
    stage = await start_stage(drain_grace_s=0)
    await stage.add("lone", Role.DECODE, script=[65, 66])
    fresh, fresh_writer = await asyncio.open_connection("127.0.0.1", port_of(stage.addresses.http))
    idle, idle_writer = await asyncio.open_connection("127.0.0.1", port_of(stage.addresses.http))
    idle_writer.write(b"GET /ping HTTP/1.1\r\nhost: a\r\n\r\n")
    await idle.readuntil(b"\r\n\r\n")
    assert await stage.server.drain(60)
    assert await asyncio.wait_for(idle.read(), 60) == b""
    for address in (stage.addresses.http, stage.addresses.grpc):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port_of(address))
    body = json.dumps(PROMPT).encode()
    fresh_writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )
    answer = (await asyncio.wait_for(fresh.read(), 60)).lower()
    assert answer.startswith(b"http/1.1 503")
    assert b"\r\nretry-after: 1\r\n" in answer
    assert b"\r\nconnection: close\r\n" in answer
    for writer in (fresh_writer, idle_writer):
        writer.close()


@pytest.mark.parametrize("door", ["http", "grpc"])
async def test_streams_under_way_end_whole(
    start_stage: StartStage, backend: Tokenizer, door: str
) -> None:
    stage = await start_stage(drain_grace_s=0)
    _, decode = await stage.add_pair([65, 66, 67])
    decode.hold_after = 2
    async with aclosing(_stream(stage, door)) as pieces:
        first = await anext(pieces)
        drain = asyncio.create_task(stage.server.drain(60))
        await over(stage)
        assert (await failure(stage.stub.Generate(pb.GenerateRequest(text="a")))).code() is (
            grpc.StatusCode.UNAVAILABLE
        )
        decode.release.set()
        rest = [piece async for piece in pieces]
    assert await drain
    assert first + "".join(rest) == backend.decode([65, 66, 67])


async def _stream(stage: Stage, door: str) -> AsyncIterator[str]:
    if door == "grpc":
        async for response in stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=9)):
            yield response.text
        return
    async with (
        http_client(stage) as http,
        http.stream("POST", "/v1/completions", json={**PROMPT, "stream": True}) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    yield choice["text"]
        assert line == "data: [DONE]" or not line


class Pair:
    """Two routers behind the same ports; connections go to either."""

    def __init__(self, stages: list[Stage]) -> None:
        self.stages = stages

    def with_clients(self) -> Stage:
        (stage,) = (each for each in self.stages if each.server._servers._http.num_connections)
        return stage


async def a_pair(start_stage: StartStage, **settings: Any) -> Pair:
    first = await start_stage(share_ports=True, **settings)
    ports = {
        "http_port": port_of(first.addresses.http),
        "grpc_port": port_of(first.addresses.grpc),
    }
    second = await start_stage(share_ports=True, join_ports=True, **ports, **settings)
    for number, stage in enumerate((first, second)):
        await stage.add(str(number), Role.DECODE, script=[65, 66, 67])
    return Pair([first, second])


@pytest.mark.parametrize("grace_s", [0, 60])
async def test_openai_clients_go_on_at_the_other_router(
    start_stage: StartStage, backend: Tokenizer, grace_s: float
) -> None:
    """A pooled connection is closed, or its next answer closes it; no request fails."""
    text = backend.decode([65, 66, 67])
    pair = await a_pair(start_stage, drain_grace_s=grace_s)
    url = f"http://{pair.stages[0].addresses.http}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=1) as client:
        ask = client.completions.create
        assert (await ask(model="tiny", prompt="a", max_tokens=9)).choices[0].text == text
        leaving = pair.with_clients()
        drain = asyncio.create_task(leaving.server.drain(60))
        await begun(leaving)
        if not grace_s:
            assert await drain
        answers = [await ask(model="tiny", prompt="a", max_tokens=9) for _ in range(5)]
        assert [answer.choices[0].text for answer in answers] == [text] * 5
        if not grace_s:
            assert pair.with_clients() is not leaving
    assert await drain


async def test_grpc_clients_go_on_at_the_other_router(start_stage: StartStage) -> None:
    """On the same channel, which connects again once it has heard."""
    pair = await a_pair(start_stage, drain_grace_s=0)
    stub = pair.stages[0].stub
    request = pb.GenerateRequest(text="a", max_tokens=9)

    async def worker_that_serves() -> str:
        responses = [response async for response in stub.Generate(request, wait_for_ready=True)]
        return responses[-1].served_by.decode_worker_id

    leaving = int(await worker_that_serves())
    assert await pair.stages[leaving].server.drain(60)
    ready = grpc.ChannelConnectivity.READY
    await asyncio.wait_for(pair.stages[0].channel.wait_for_state_change(ready), 60)
    assert [await worker_that_serves() for _ in range(3)] == [str(1 - leaving)] * 3
