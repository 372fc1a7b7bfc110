"""Messages of a call whose writes need no task."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc
import pytest

from router.grpc_api.call_writer import CallWriter
from router.grpc_api.grpc_responses import GrpcResponses
from router.requests.request import Delta

pytestmark = pytest.mark.quick


class Context:
    """A call whose writes wait until the test lets each of them go."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.waiting: list[asyncio.Future[None]] = []

    async def write(self, message: str) -> None:
        assert all(future.done() for future in self.waiting), "one at a time"
        self.written.append(message)
        self.waiting.append(asyncio.get_running_loop().create_future())
        await self.waiting[-1]

    def let_go(self) -> None:
        self.waiting[-1].set_result(None)


class Texts:
    def response(self, delta: Delta) -> str:
        return delta.text


@pytest.fixture
def context() -> Context:
    return Context()


@pytest.fixture
def writer(context: Context) -> CallWriter:
    known = cast(grpc.aio.ServicerContext, context)
    return CallWriter(known, cast(GrpcResponses, Texts()))


def delta(text: str) -> Delta:
    return Delta(text=text, tokens=(1,))


async def turn() -> None:
    """Those that were woken have gone on."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_message_leaves_in_the_call_that_brings_it(
    writer: CallWriter, context: Context
) -> None:
    assert writer.ready()
    writer.write(delta("first"))
    assert context.written == ["first"]
    assert (writer.ready(), writer.writing) == (False, True)
    context.let_go()
    await turn()
    assert (writer.ready(), writer.writing) == (True, False)


async def test_its_callback_may_write_the_next(writer: CallWriter, context: Context) -> None:
    rest = ["second", "third"]

    def write_next() -> None:
        assert writer.ready()
        if rest:
            writer.write(delta(rest.pop(0)))
            writer.call_when_ready(write_next)

    writer.call_when_ready(write_next)
    writer.write(delta("first"))
    for written in (["first"], ["first", "second"], ["first", "second", "third"]):
        assert context.written == written
        context.let_go()
        await turn()
    assert not writer.writing


async def test_a_message_that_waits_for_nothing_needs_no_callback(
    writer: CallWriter, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(message: str) -> None:
        context.written.append(message)

    monkeypatch.setattr(context, "write", write)
    writer.write(delta("first"))
    assert writer.ready()
    writer.write(delta("second"))
    assert context.written == ["first", "second"]


async def test_what_ends_a_write_is_told_and_ends_all_others(
    writer: CallWriter, context: Context
) -> None:
    called = []
    writer.call_when_ready(lambda: called.append(writer.ready()))
    writer.write(delta("first"))
    context.waiting[-1].set_exception(ConnectionError("the client is gone"))
    await turn()
    assert called == [False]
    assert not writer.writing
    with pytest.raises(ConnectionError, match="the client is gone"):
        writer.check()


async def test_what_cannot_be_written_is_told_at_once(
    writer: CallWriter, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(message: Any) -> None:
        raise RuntimeError("for the test")

    monkeypatch.setattr(context, "write", fail)
    with pytest.raises(RuntimeError, match="for the test"):
        writer.write(delta("first"))
    assert not writer.writing


async def test_a_write_goes_on_without_whoever_waits_for_the_headers(
    writer: CallWriter, context: Context
) -> None:
    """Cancelled, it would leave gRPC without knowing that the call's headers have been sent."""
    writer.write(delta("first"))
    for _ in range(2):
        waiting = asyncio.create_task(writer.wait_headers())
        await turn()
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not context.waiting[0].cancelled()
    sent = asyncio.create_task(writer.wait_headers())
    context.let_go()
    await sent
    writer.write(delta("second"))
    await writer.wait_headers()  # though the second is being written
    assert writer.writing


async def test_nobody_waits_for_headers_that_are_not_on_their_way(writer: CallWriter) -> None:
    await writer.wait_headers()
