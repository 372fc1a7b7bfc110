"""Clients that do not read: what waits for them is small, bounded, and told."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

import grpc
import pytest

from router.answers.unread import Unread
from router.errors import NotRead
from tests.router.conftest import Stage, StartStage
from tests.router.fake_worker import FakeWorker
from wire import inference_pb2 as pb
from wire.identity import AttemptId, Role
from wire.messages import Cancel, Output, StepOutputs, Submit
from wire.sampling import TokenLogprob


async def hangs(unread: Unread, num_bytes: int, *, then: Callable[[], object] = bool) -> None:
    """A request whose client does not read while so much is added."""
    async with unread.reader() as client:
        client.add(num_bytes)
        then()
        await asyncio.Event().wait()


async def test_one_client_that_leaves_too_much_is_ended() -> None:
    unread = Unread(1000, 10_000)
    async with unread.reader() as other:
        other.add(1000)
        with pytest.raises(NotRead, match="1001 bytes of the answer were not read"):
            await asyncio.wait_for(hangs(unread, 1001), 60)
        assert unread.num_bytes == 1000
        other.add(-400)
        assert unread.num_bytes == 600
    assert unread.num_bytes == 0


async def test_when_all_leave_too_much_the_one_with_the_most_is_ended() -> None:
    unread = Unread(1000, 1500)
    tasks = [asyncio.create_task(hangs(unread, size)) for size in (600, 700)]
    await asyncio.sleep(0)
    async with unread.reader() as last:
        last.add(300)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=60)
    assert [task.done() for task in tasks] == [False, True]
    with pytest.raises(NotRead, match="most of them of this one"):
        await tasks[1]
    assert unread.num_bytes == 600
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert unread.num_bytes == 0


async def test_timeouts_and_cancellation_of_others_stay_what_they_are() -> None:
    unread = Unread(10, 10)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await hangs(unread, 1)
    task = asyncio.create_task(hangs(unread, 1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert unread.num_bytes == 0


def output(attempt_id: AttemptId, position: int, num_tokens: int) -> Output:
    return Output(
        attempt_id=attempt_id,
        position=position,
        tokens=(7,) * num_tokens,
        logprobs=(TokenLogprob(-1.0),) * num_tokens,
    )


async def never_ending(worker: FakeWorker, submit: Submit) -> None:
    position = submit.num_prompt
    while True:
        worker.send(StepOutputs(outputs=(output(submit.attempt_id, position, 100),)))
        position += 100
        await asyncio.sleep(0.001)  # or gRPC's thread has no turn on a busy machine


async def a_stage_without_end(start_stage: StartStage, **settings: int) -> tuple[Stage, FakeWorker]:
    """Its worker writes for ever, and the system buffers little of that."""
    stage = await start_stage(max_unread_bytes=20_000, **settings)
    (listener,) = stage.server._servers._http._server.sockets
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    worker = await stage.add("lone", Role.DECODE)
    worker.serve = lambda submit: never_ending(worker, submit)
    return stage, worker


def count_of_not_read(stage: Stage) -> float:
    return stage.server.conductor.metrics.refusals.labels("not_read")._value.get()


@pytest.mark.parametrize("more", [{}, {"stop": ["never"]}, {"n": 2}, {"stream_interval": 3}])
async def test_an_http_stream_that_nobody_reads_ends_and_says_why(
    start_stage: StartStage, more: dict[str, object]
) -> None:
    """However its answers are ended, numbered and cut into messages."""
    stage, worker = await a_stage_without_end(start_stage)
    body = json.dumps({"prompt": "a", "stream": True, "max_tokens": 99, **more}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, _, port = stage.addresses.http.rpartition(":")
        client.connect((host, int(port)))
        client.sendall(head + body)
        await worker.hears(Cancel)
        await stage.until(lambda: count_of_not_read(stage) == 1)
        assert stage.server.conductor.num_in_flight == 0
        assert stage.server.conductor.unread.num_bytes == 0
        client.setblocking(False)
        received = b""
        async with asyncio.timeout(60):
            while piece := await asyncio.get_running_loop().sock_recv(client, 65536):
                received += piece
    event = received.rpartition(b"data: ")[2].partition(b"\n")[0]
    assert json.loads(event)["error"]["code"] == "not_read"
    assert received.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in received


@pytest.mark.parametrize("more", [{}, {"stop": ["never"]}, {"n": 2}, {"stream_interval": 3}])
async def test_a_grpc_stream_that_nobody_reads_is_resource_exhausted(
    start_stage: StartStage, more: dict[str, object]
) -> None:
    stage, worker = await a_stage_without_end(start_stage)
    call = stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=99, **more))
    await worker.hears(Cancel)
    await stage.until(lambda: count_of_not_read(stage) == 1)
    assert stage.server.conductor.num_in_flight == 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [response async for response in call]
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "were not read" in str(caught.value.details())


async def test_others_are_served_on_while_those_who_do_not_read_end(
    start_stage: StartStage,
) -> None:
    stage, worker = await a_stage_without_end(start_stage, max_unread_total_bytes=50_000)
    worker.script, worker.hold_after = [65, 66, 67], 1
    endless = worker.serve
    worker.serve = lambda submit: (
        worker.serve_script(submit) if submit.sampling.max_tokens == 9 else endless(submit)
    )
    sound = stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=9))
    assert list((await sound.read()).token_ids) == [65]
    calls = [stage.call(text="a", max_tokens=99) for _ in range(2)]
    await stage.until(lambda: count_of_not_read(stage) == len(calls))
    worker.release.set()
    assert list((await sound.read()).token_ids)[:1] == [66]
    for call in calls:
        call.cancel()
