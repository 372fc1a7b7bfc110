"""Deltas on their way to a client that may be slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import chain

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from router.answers.joining import MESSAGE_BYTES, TOKEN_BYTES, HeldDeltas, joined, size_of
from router.answers.sink import CollectingSink, StreamSink
from router.answers.unread import Reader, Unread
from router.requests.request import Delta, Ending, Timing, ToolCallDelta, Usage
from wire.messages import FinishReason
from wire.sampling import TokenLogprob

pytestmark = pytest.mark.quick

ENDING = Ending(
    finish=FinishReason.STOP,
    stop_text=None,
    stop_token=None,
    usage=Usage(prompt_tokens=1, completion_tokens=1, cached_tokens=0),
    timing=Timing(),
    prefill_worker_id="a",
    decode_worker_id="b",
    attempts=1,
)


def first(text: str, index: int = 0) -> Delta:
    return Delta(
        text=text,
        tokens=(1,),
        index=index,
        prompt_tokens=(7, 8),
        prompt_logprobs=(TokenLogprob(-1.0),),
    )


def next_(text: str, index: int = 0) -> Delta:
    return Delta(text=text, tokens=(1,), index=index)


def last(index: int = 0) -> Delta:
    return Delta(text="", tokens=(), index=index, ending=ENDING)


class FakeWriter:
    """Ready when the test says so; each write that `waits` takes until the next `proceed`."""

    def __init__(self) -> None:
        self.is_ready = True
        self.waits = False
        self.writing = False
        self.written: list[Delta] = []
        self.failure: Exception | None = None
        self._callback: Callable[[], None] | None = None

    def ready(self) -> bool:
        return self.is_ready and not self.writing and self.failure is None

    def call_when_ready(self, callback: Callable[[], None], /) -> None:
        self._callback = callback

    def write(self, delta: Delta) -> None:
        assert self.ready()
        self.written.append(delta)
        self.writing = self.waits

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def proceed(self) -> None:
        self.is_ready, self.writing = True, False
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def texts(self) -> list[str]:
        return [delta.text for delta in self.written]


@pytest.fixture
def writer() -> FakeWriter:
    return FakeWriter()


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Reader]:
    async with Unread(10**6, 10**6).reader() as client:
        yield client


@pytest.fixture
def sink(writer: FakeWriter, client: Reader) -> StreamSink:
    return StreamSink(writer, client)


async def test_a_delta_leaves_in_the_call_that_brings_it(
    sink: StreamSink, writer: FakeWriter, client: Reader
) -> None:
    for delta in (first("a"), next_("b"), last()):
        sink.send(delta)
        assert writer.written[-1] is delta
    await sink.drain()
    assert client.num_bytes == 0


async def test_what_the_client_does_not_read_leaves_as_one_when_it_reads_on(
    sink: StreamSink, writer: FakeWriter, client: Reader
) -> None:
    sink.send(first("a"))
    writer.is_ready = False
    for text in "bcd":
        sink.send(next_(text))
    assert client.num_bytes == 3 * size_of(next_("b"))
    writer.proceed()
    sink.send(next_("e"))
    assert writer.texts() == ["a", "bcd", "e"]
    assert writer.written[1].tokens == (1, 1, 1)
    assert client.num_bytes == 0


async def test_what_is_being_written_counts_until_it_has_left(
    sink: StreamSink, writer: FakeWriter, client: Reader
) -> None:
    writer.waits = True
    sink.send(first("a"))
    assert client.num_bytes == 0, "it never waited"
    sink.send(next_("b"))
    sink.send(next_("c"))
    writer.proceed()
    assert writer.texts() == ["a", "bc"]
    assert client.num_bytes == 2 * size_of(next_("b")), "it is on its way"
    sink.send(next_("d"))
    assert client.num_bytes == 3 * size_of(next_("b"))
    writer.proceed()
    writer.proceed()
    assert writer.texts() == ["a", "bc", "d"]
    assert client.num_bytes == 0


async def test_joined_tokens_cost_less_than_a_message_each(
    sink: StreamSink, writer: FakeWriter, client: Reader
) -> None:
    writer.is_ready = False
    for _ in range(1000):
        sink.send(next_("a"))
    assert 1000 * TOKEN_BYTES < client.num_bytes < 1000 * TOKEN_BYTES + 80 * MESSAGE_BYTES
    writer.proceed()
    assert writer.texts() == ["a" * 1000]
    assert client.num_bytes == 0


async def test_each_answer_has_what_is_its_own(sink: StreamSink, writer: FakeWriter) -> None:
    writer.is_ready = False
    for delta in (first("a", 0), first("x", 1), next_("b", 0), next_("y", 1), last(0)):
        sink.send(delta)
    writer.proceed()
    told = {delta.index: delta for delta in writer.written}
    assert {index: delta.text for index, delta in told.items()} == {0: "ab", 1: "xy"}
    assert [told[index].prompt_tokens for index in (0, 1)] == [(7, 8)] * 2
    assert [told[index].prompt_logprobs for index in (0, 1)] == [(TokenLogprob(-1.0),)] * 2
    assert (told[0].ending, told[1].ending) == (ENDING, None)


async def test_an_interval_holds_all_but_the_first_and_the_last(
    writer: FakeWriter, client: Reader
) -> None:
    sink = StreamSink(writer, client, interval=3)
    for text in "abcdefghi":
        sink.send(first(text) if text == "a" else next_(text))
    assert writer.texts() == ["a", "bcd", "efg"]
    assert client.num_bytes == 0, "the client reads"
    sink.send(last())
    assert writer.texts() == ["a", "bcd", "efg", "hi"]
    assert writer.written[-1].ending is ENDING


async def test_answers_have_intervals_of_their_own(writer: FakeWriter, client: Reader) -> None:
    sink = StreamSink(writer, client, interval=2)
    for text in "abc":
        sink.send(next_(text, 0))
        sink.send(next_(text.upper(), 1))
    assert writer.texts() == ["ab", "AB"]
    writer.is_ready = False
    sink.send(next_("d", 0))
    assert client.num_bytes == 3 * size_of(next_("a")), "of both, for now the client is slow"
    writer.proceed()
    assert writer.texts() == ["ab", "AB", "cd"]
    assert client.num_bytes == 0


async def test_before_an_error_all_that_was_held_leaves(writer: FakeWriter, client: Reader) -> None:
    """Its sender drains the sink, and then tells the error."""
    sink = StreamSink(writer, client, interval=50)
    sink.send(first("a"))
    writer.is_ready = False
    sink.send(next_("b"))
    sink.send(next_("c"))
    draining = asyncio.create_task(sink.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    writer.proceed()
    await draining
    assert writer.texts() == ["a", "bc"]


async def test_draining_waits_for_what_is_being_written(
    sink: StreamSink, writer: FakeWriter
) -> None:
    writer.waits = True
    sink.send(first("a"))
    sink.send(last())
    draining = asyncio.create_task(sink.drain())
    for _ in range(2):
        await asyncio.sleep(0)
        assert not draining.done()
        writer.proceed()
    await draining
    assert [delta.ending for delta in writer.written] == [None, ENDING]


async def test_a_lost_connection_is_raised_where_something_is_sent_or_drained(
    sink: StreamSink, writer: FakeWriter
) -> None:
    writer.waits = True
    sink.send(first("a"))
    draining = asyncio.create_task(sink.drain())
    await asyncio.sleep(0)
    writer.failure = ConnectionError("the client is gone")
    writer.proceed()
    with pytest.raises(ConnectionError, match="the client is gone"):
        await draining
    with pytest.raises(ConnectionError, match="the client is gone"):
        sink.send(next_("b"))


async def test_what_fails_in_the_writers_callback_is_raised_where_the_request_waits(
    sink: StreamSink, writer: FakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(delta: Delta) -> None:
        raise RuntimeError("for the test")

    monkeypatch.setattr(sink, "_write_now", fail)
    writer.is_ready = False
    sink.send(first("a"))
    writer.proceed()
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="for the test"):
        sink.send(next_("b"))
    with pytest.raises(RuntimeError, match="for the test"):
        await sink.drain()
    assert not writer.written, "nothing leaves after what was lost"


async def test_a_collecting_sink_keeps_all() -> None:
    sink = CollectingSink()
    deltas = [first("a"), next_("b"), last()]
    for delta in deltas:
        sink.send(delta)
    await sink.drain()
    assert sink.deltas == deltas


DELTAS = st.builds(
    Delta,
    text=st.text(max_size=3),
    tokens=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    logprobs=st.lists(st.builds(TokenLogprob, st.floats(-1, 0)), max_size=2).map(tuple),
    reasoning=st.text(max_size=2),
    tool_calls=st.lists(
        st.builds(ToolCallDelta, index=st.integers(0, 2), arguments=st.text(max_size=2)), max_size=2
    ).map(tuple),
)


@given(st.lists(DELTAS, min_size=1, max_size=200))
def test_joined_deltas_say_the_same(deltas: list[Delta]) -> None:
    held = HeldDeltas()
    for delta in deltas:
        held.add(delta)
    whole = held.whole()
    assert whole == joined(deltas)
    for field in ("text", "tokens", "logprobs", "reasoning", "tool_calls"):
        pieces = [getattr(delta, field) for delta in deltas]
        assert [*getattr(whole, field)] == [*chain(*pieces)]
    assert held.num_tokens == len(whole.tokens)
    assert size_of(whole) <= held.num_bytes <= size_of(whole) + 70 * MESSAGE_BYTES
