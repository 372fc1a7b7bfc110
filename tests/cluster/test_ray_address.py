"""Whether a Ray answers where one was named; nobody, somebody else, and somebody mute."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from cluster.config import load_config
from cluster.errors import StartFailed
from cluster.ray_address import HEAD_METHOD, check_that_ray_answers, ray_address

LITTLE_S = 0.5


def test_nobody_there_is_one_sentence() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with pytest.raises(StartFailed, match=rf"no Ray answers at 127\.0\.0\.1:{port} \(Conn.*\)"):
            check_that_ray_answers(f"127.0.0.1:{port}")


def test_one_who_says_nothing_is_no_ray() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        with pytest.raises(StartFailed, match=rf"127\.0\.0\.1:{port} is no Ray: give the address"):
            check_that_ray_answers(f"127.0.0.1:{port}", LITTLE_S)


@pytest.mark.parametrize("address", ["head", "head:", "::1:6379", "head:99999"])
def test_what_is_no_address_is_said_without_asking_anybody(address: str) -> None:
    with pytest.raises(StartFailed, match="Ray's address: "):
        check_that_ray_answers(address)


class Head(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Knows the method of a head, and asks for a token or not."""

    def __init__(self, *, asks: bool) -> None:
        self._asks = asks

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        known = details.method == HEAD_METHOD
        return grpc.unary_unary_rpc_method_handler(self._answer) if known else None

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if self._asks:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "a token is needed")
        return b""


@pytest.mark.parametrize("asks", [True, False])
def test_a_head_is_known_by_a_method_and_may_want_a_token(asks: bool) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pytest.raises(StartFailed, match="is no Ray"):
        check_that_ray_answers(f"127.0.0.1:{port}")
    server.add_generic_rpc_handlers((Head(asks=asks),))
    assert check_that_ray_answers(f"127.0.0.1:{port}") is asks
    server.stop(None).wait()


def test_the_configuration_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ray_address(load_config(None, {})) is None
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert ray_address(load_config(None, {})) == "auto"
    check_that_ray_answers("auto")
    assert ray_address(load_config(None, {"ray.address": "head:6379"})) == "head:6379"
