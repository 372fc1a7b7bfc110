"""Ports that are held for somebody else, shared, or not to be had."""

from __future__ import annotations

import socket

import grpc
import pytest

from runtime.listen import PortTaken, bind, claimed_port, open_listener, reserve_port
from runtime.session import SERVER_OPTIONS


def test_a_reserved_port_can_be_listened_at_and_then_be_reserved_by_nobody() -> None:
    with reserve_port("127.0.0.1", 0, "port") as reserved, socket.socket() as listener:
        port = reserved.getsockname()[1]
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port}: the port is in use.*set port to"):
            reserve_port("127.0.0.1", port, "port")


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_is_listened_at_in_either_notation(host: str) -> None:
    with open_listener(host, 0, "port") as listener:
        socket.create_connection(("::1", listener.getsockname()[1]), timeout=10).close()


def test_the_ipv6_wildcard_is_both_families() -> None:
    with open_listener("::", 0, "port") as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=10).close()


@pytest.mark.parametrize(
    ("host", "cause"),
    [
        ("203.0.113.7", "cannot listen on 203.0.113.7:0: no network interface"),
        ("2001:db8::7", r"cannot listen on \[2001:db8::7\]:0: no network interface"),
        ("no.such.invalid", "cannot listen on no.such.invalid:0: .*the host beside http_port"),
    ],
)
def test_a_host_that_is_not_this_machine_is_another_cause_than_a_taken_port(
    host: str, cause: str
) -> None:
    with pytest.raises(PortTaken, match=cause):
        reserve_port(host, 0, "http_port")


async def test_grpc_has_the_same_causes() -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    with pytest.raises(PortTaken, match=r"203\.0\.113\.7:5000: no network interface"):
        bind(server, "203.0.113.7", 5000, "grpc_port")
    with open_listener("::1", 0, "port") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"\[::1\]:{port}: the port is in use"):
            bind(server, "::1", port, "grpc_port")


def test_a_port_is_shared_once_it_was_claimed_and_claimed_by_nobody_else() -> None:
    with reserve_port("127.0.0.1", 0, "port") as free:
        port = free.getsockname()[1]
    with claimed_port("127.0.0.1", port, "port"):
        with (
            pytest.raises(PortTaken, match="the port is in use"),
            claimed_port("127.0.0.1", port, "port"),
        ):
            raise AssertionError("claimed twice")
        first = open_listener("127.0.0.1", port, "port", shared=True)
    with (
        first,
        open_listener("127.0.0.1", port, "port", shared=True),
        pytest.raises(PortTaken, match="the port is in use"),
        claimed_port("127.0.0.1", port, "port"),
    ):
        raise AssertionError("claimed although others listen there")
