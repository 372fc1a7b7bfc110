"""The address of Ray, and whether a Ray answers there."""

from __future__ import annotations

import os
import socket

import grpc

from cluster.config import ClusterConfig
from cluster.errors import StartFailed
from runtime.address import split_address

ANSWER_S = 3.0
CLIENT_SCHEME = "ray://"
HEAD_METHOD = "/ray.rpc.NodeInfoGcsService/GetClusterId"
CLIENT_METHOD = "/ray.rpc.RayletDriver/ClusterInfo"
NO_RAY = {
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
}
ELSEWHERE = ("auto", "local")
"""Addresses that Ray resolves itself."""


def ray_address(config: ClusterConfig) -> str | None:
    """The address of the Ray to run on; None to start a light one."""
    return config.ray.address or os.environ.get("RAY_ADDRESS")


def check_that_ray_answers(address: str, answer_s: float = ANSWER_S) -> bool:
    """Check that a Ray listens at `address`; False if it answers without an authentication token.

    A driver that presents a token to a Ray without authentication is ignored and loses its actors.
    Raises StartFailed within twice `answer_s`; Ray itself would retry for minutes, ignoring Ctrl-C.
    """
    if address in ELSEWHERE:
        return True
    try:
        host, port = split_address(address.removeprefix(CLIENT_SCHEME))
    except ValueError as error:
        raise StartFailed(f"Ray's address: {error}") from error
    try:
        socket.create_connection((host, port), timeout=answer_s).close()
    except OSError as error:
        cause = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise StartFailed(
            f"no Ray answers at {address} ({cause}): start one there with `ray start --head`, give "
            "another --ray-address, or leave it out for one of this machine's own"
        ) from error
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return True
    code = _code_of(address, answer_s)
    if code in NO_RAY:
        raise StartFailed(
            f"what listens at {address} is no Ray: give the address that `ray start --head` "
            "printed, whose port is 6379 unless --port names another"
        )
    return code is not grpc.StatusCode.OK


def _code_of(address: str, answer_s: float) -> grpc.StatusCode:
    """The status code of a call to Ray's head without a token."""
    method = CLIENT_METHOD if address.startswith(CLIENT_SCHEME) else HEAD_METHOD
    target = address.removeprefix(CLIENT_SCHEME)
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=answer_s)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK
