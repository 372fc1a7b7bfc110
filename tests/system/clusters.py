"""Whole clusters of real processes, and a client that drives them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc

from cluster.config import load_config
from cluster.process_launcher import ProcessLauncher
from cluster.running import RunningCluster, running
from runtime.session import open_session
from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc
from wire.messages import Hello
from wire.reports import Report

LOOPBACK = {"UCX_NET_DEVICES": "lo"}
PREFILL_STAMP, DECODE_STAMP = 1, 2
ROUTER: dict[str, Any] = {
    "router.split": "always",
    "router.report_wait_s": 10.0,
    "router.fetch_wait_s": 60.0,
}
"""What a router does without when it takes long, it waits for here: machines may be busy."""
ARITHMETIC: dict[str, Any] = {
    "worker.runner": "arithmetic",
    "worker.ucx_env": LOOPBACK,
    "worker.cache_bytes": 4 * 1024 * 1024,
    "prefill.worker.stamp": PREFILL_STAMP,
    "prefill.worker.chunk_tokens": 64,
    "decode.worker.stamp": DECODE_STAMP,
    **ROUTER,
}
BUNDLED: dict[str, Any] = {
    "worker.ucx_env": LOOPBACK,
    "worker.threads": 1,
    **ROUTER,
}


@contextmanager
def a_cluster(settings: dict[str, Any]) -> Iterator[RunningCluster]:
    """One router, and workers as child processes on any free ports."""
    lines: list[str] = []
    config = load_config(None, settings)
    with running(config, ProcessLauncher(), lines.append) as cluster:
        yield cluster


def wait_until_replaced(cluster: RunningCluster, name: str) -> None:
    """That it died is noticed, and another one serves in its place."""
    (place,) = [place for place in cluster._workers if place.name == name]
    num_starts = place.num_starts
    while place.num_starts == num_starts:
        cluster.watch()
    cluster.wait_ready()


@asynccontextmanager
async def a_client(cluster: RunningCluster) -> AsyncIterator[rpc.InferenceStub]:
    async with grpc.aio.insecure_channel(cluster.addresses.grpc) as channel:
        yield rpc.InferenceStub(channel)


def a_request(tokens: list[int], max_tokens: int, **fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=tokens), max_tokens=max_tokens, ignore_eos=True, **fields
    )


async def answer(
    stub: rpc.InferenceStub, request: pb.GenerateRequest
) -> tuple[list[int], pb.GenerateResponse]:
    """All token ids, and the last message."""
    tokens: list[int] = []
    last = pb.GenerateResponse()
    async for last in stub.Generate(request, timeout=120):
        tokens += last.token_ids
    return tokens, last


async def reports_when_idle(cluster: RunningCluster, timeout_s: float = 100) -> list[Report]:
    """Each worker's own account of itself, as soon as it has nothing left to do."""
    return [await _report_when_idle(address, timeout_s) for address in cluster.worker_addresses]


async def _report_when_idle(address: str, timeout_s: float) -> Report:
    opened = await open_session(address, Hello(caller_id="probe"), timeout_s=60)
    try:
        async with asyncio.timeout(timeout_s):
            async for message in opened.session.messages():
                if isinstance(message, Report) and _idle(message):
                    return message
    finally:
        opened.session.close()
    raise AssertionError(f"{address} ended its session")


def _idle(report: Report) -> bool:
    return not (report.num_running or report.num_waiting or report.num_handoffs)
