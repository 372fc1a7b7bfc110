"""Where a Ray is, and whether one answers there."""

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
"""Names of a Ray that Ray itself looks for."""


def ray_address(config: ClusterConfig) -> str | None:
    """Of the Ray to run on; None where a light one is to be started."""
    return config.ray.address or os.environ.get("RAY_ADDRESS")


def check_that_ray_answers(address: str, answer_s: float = ANSWER_S) -> bool:
    """Whether it may want a token: False when it answers without one.

    A driver that shows a token to a Ray without them is not heard by it, and loses its actors.
    Raises StartFailed within twice `answer_s`; Ray itself would try for minutes, deaf to Ctrl-C.
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
            "printed, whose port is 6379 unless it was told another"
        )
    return code is not grpc.StatusCode.OK


def _code_of(address: str, answer_s: float) -> grpc.StatusCode:
    """What a head says to a method of its own, asked without a token."""
    method = CLIENT_METHOD if address.startswith(CLIENT_SCHEME) else HEAD_METHOD
    target = address.removeprefix(CLIENT_SCHEME)
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=answer_s)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK
