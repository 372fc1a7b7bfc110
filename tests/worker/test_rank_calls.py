"""Calls between ranks: answers now or later, refusals, notices, and the end of a rank."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import pytest

from kv_transfer.endpoints.remote_rank_messages import Reply
from worker.ranks.calls import CallClient, CallServer
from worker.ranks.errors import RankLost, RankRefused
from worker.ranks.message_socket import MessageSocket, SocketClosed

pytestmark = pytest.mark.quick

PATIENCE_S = 60


class Double(msgspec.Struct, frozen=True):
    number: int


class Later(msgspec.Struct, frozen=True):
    number: int


class Unknown(msgspec.Struct, frozen=True):
    number: int


class Number(msgspec.Struct, frozen=True):
    number: int


@dataclass
class Ends:
    client: CallClient
    server: CallServer
    sockets: tuple[MessageSocket, MessageSocket]
    later: list[Reply]
    notices: list[tuple[int, Number]]
    threads: list[threading.Thread]

    def hang_up(self) -> None:
        self.sockets[1].close()
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture
def ends() -> Iterator[Ends]:
    with a_call_server() as ends:
        yield ends


@contextmanager
def a_call_server() -> Iterator[Ends]:
    """Both ends in this process, each with the thread that receives for it."""
    first, second = (MessageSocket(end) for end in socket.socketpair())
    notices: list[tuple[int, Number]] = []
    client = CallClient(3, first, {Number: lambda rank, message: notices.append((rank, message))})
    server, later = CallServer(second), []

    def double(message: Double, reply: Reply) -> None:
        if message.number < 0:
            raise ValueError("less than nothing")
        reply(Number(2 * message.number))

    server.serve({Double: double, Later: lambda message, reply: later.append(reply)})
    threads = [threading.Thread(target=end.receive_all, daemon=True) for end in (client, server)]
    for thread in threads:
        thread.start()
    ends = Ends(client, server, (first, second), later, notices, threads)
    yield ends
    ends.hang_up()
    for each in ends.sockets:
        each.free()


def test_answers_find_their_calls_in_any_order(ends: Ends) -> None:
    late = ends.client.call(Later(1), Number)
    assert ends.client.call(Double(21), Number).result(PATIENCE_S) == Number(42)
    assert not late.done()
    ends.later[0](Number(7))
    assert late.result(PATIENCE_S) == Number(7)


def test_many_threads_may_call(ends: Ends) -> None:
    found: list[int] = []

    def call(number: int) -> None:
        found.append(ends.client.call(Double(number), Number).result(PATIENCE_S).number)

    threads = [threading.Thread(target=call, args=[number]) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [2 * number for number in range(20)]


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (Double(-1), "rank 3: ValueError: less than nothing"),
        (Unknown(1), "rank 3: RankRefused: Unknown is not understood, or not yet"),
    ],
)
def test_what_a_rank_cannot_do_is_said_and_it_lives(
    message: msgspec.Struct, why: str, ends: Ends
) -> None:
    with pytest.raises(RankRefused) as caught:
        ends.client.call(message, Number).result(PATIENCE_S)
    assert str(caught.value) == why
    assert ends.client.call(Double(1), Number).result(PATIENCE_S) == Number(2)


def test_a_rank_sends_a_notice(ends: Ends) -> None:
    ends.server.notify(Number(5))
    ends.client.call(Double(1), Number).result(PATIENCE_S)  # comes behind it
    assert ends.notices == [(3, Number(5))]


def test_calls_of_a_lost_rank_fail_those_that_wait_and_those_to_come(ends: Ends) -> None:
    waiting = ends.client.call(Later(1), Number)
    ends.hang_up()
    ends.client.lose(RankLost("rank 3 has ended"))
    for future in (waiting, ends.client.call(Double(1), Number)):
        with pytest.raises(RankLost, match="rank 3 has ended"):
            future.result(PATIENCE_S)


def test_a_socket_carries_frames_of_any_size_and_says_when_it_is_closed() -> None:
    first, second = (MessageSocket(end) for end in socket.socketpair())
    frames = [b"", b"x", bytes(1 << 20)]
    sender = threading.Thread(target=lambda: [first.send(frame) for frame in frames])
    sender.start()
    assert [second.receive() for _ in frames] == frames
    sender.join()
    second.close()
    assert first.receive() is None
    with pytest.raises(SocketClosed):
        first.send(b"x")
    for each in (first, second):
        each.free()
