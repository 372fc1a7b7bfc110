"""Messages of a call whose writes need no task."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc
import pytest

from router.grpc_api.grpc_responses import GrpcResponses
from router.grpc_api.way import GrpcWay
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
def way(context: Context) -> GrpcWay:
    known = cast(grpc.aio.ServicerContext, context)
    return GrpcWay(known, cast(GrpcResponses, Texts()))


def delta(text: str) -> Delta:
    return Delta(text=text, tokens=(1,))


async def begun(way: GrpcWay, context: Context) -> None:
    """The first message has left."""
    first = asyncio.create_task(way.write(delta("first")))
    await asyncio.sleep(0)
    context.let_go()
    await first


async def turn() -> None:
    """Those that were woken have gone on."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_the_first_message_goes_the_long_way(way: GrpcWay, context: Context) -> None:
    assert not way.ready()
    await begun(way, context)
    assert way.ready()


async def test_a_message_leaves_in_the_call_that_brings_it(way: GrpcWay, context: Context) -> None:
    await begun(way, context)
    way.take(delta("second"))
    assert context.written == ["first", "second"]
    assert not way.ready(), "while it is being written"
    context.let_go()
    await turn()
    assert way.ready()


async def test_the_long_way_waits_for_what_is_being_written(way: GrpcWay, context: Context) -> None:
    await begun(way, context)
    way.take(delta("second"))
    third = asyncio.create_task(way.write(delta("third")))
    await turn()
    assert context.written == ["first", "second"]
    context.let_go()
    await turn()
    assert context.written == ["first", "second", "third"]
    context.let_go()
    await third


async def test_a_write_survives_whoever_waits_for_it(way: GrpcWay, context: Context) -> None:
    await begun(way, context)
    way.take(delta("second"))
    third = asyncio.create_task(way.write(delta("third")))
    await turn()
    third.cancel()
    with pytest.raises(asyncio.CancelledError):
        await third
    assert not context.waiting[-1].cancelled()
    context.let_go()
    await turn()
    assert way.ready()


async def test_what_ends_a_write_is_told_to_the_next(way: GrpcWay, context: Context) -> None:
    await begun(way, context)
    way.take(delta("second"))
    context.waiting[-1].set_exception(ConnectionError("the client is gone"))
    await turn()
    assert not way.ready()
    await way.rest()
    with pytest.raises(ConnectionError, match="the client is gone"):
        await way.write(delta("third"))
    assert context.written == ["first", "second"]


async def test_what_cannot_be_written_is_told_at_once(
    way: GrpcWay, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(message: Any) -> None:
        raise RuntimeError("for the test")

    await begun(way, context)
    monkeypatch.setattr(context, "write", fail)
    with pytest.raises(RuntimeError, match="for the test"):
        way.take(delta("second"))
    assert way.ready(), "nothing is being written"


async def test_a_write_goes_on_without_whoever_waited_for_it(
    way: GrpcWay, context: Context
) -> None:
    """Cancelled, it would leave gRPC without knowing that the call's headers have been sent."""
    writing = asyncio.create_task(way.write(delta("first")))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert not context.waiting[0].cancelled()
    sent = asyncio.create_task(way.headers())
    await asyncio.sleep(0)
    assert not sent.done()
    context.let_go()
    await sent
