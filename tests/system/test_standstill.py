"""A router process that is stopped for long, and goes on."""

from __future__ import annotations

import asyncio
import os
import signal

import httpx2
import pytest

from cluster.config import load_config
from cluster.process_launcher import ProcessLauncher
from cluster.running import running
from tests.system.clusters import ARITHMETIC, a_client, a_request, answer
from wire import inference_pb2_grpc as rpc

pytestmark = pytest.mark.long
STOPPED_S = 17.0
"""Longer than workers wait for a sign of life: they take the router for dead, and end sessions."""
TARGET_S = 15.0
"""Of the first token: all can have it in time, and who waits would be too late if the standstill
counted."""
SETTINGS = {
    **ARITHMETIC,
    "worker.step_s": 0.05,
    "worker.max_sequences": 4,
    "router.ttft_target_s": TARGET_S,
}
NUM_STREAMS, NUM_WAITING = 8, 12


async def streams(stub: rpc.InferenceStub) -> list[int]:
    """The lengths of all answers: of streams under way, and of prompts that wait for room."""
    asked = [a_request([*range(n, n + 60)], 200) for n in range(NUM_STREAMS)]
    asked += [a_request([*range(n, n + 900)], 40) for n in range(NUM_WAITING)]
    return [len(tokens) for tokens, _ in await asyncio.gather(*(answer(stub, it) for it in asked))]


async def until_somebody_waits(http: str) -> None:
    async with asyncio.timeout(60), httpx2.AsyncClient(trust_env=False, timeout=60) as client:
        while True:
            text = (await client.get(f"http://{http}/metrics")).text
            lines = [it for it in text.splitlines() if it.startswith("tandem_requests_queued{")]
            if float(lines[0].rpartition(" ")[2]) > 0:
                return


@pytest.mark.timeout(300)
async def test_nothing_is_refused_or_lost_when_the_router_goes_on() -> None:
    launcher = ProcessLauncher()
    with running(load_config(None, SETTINGS), launcher, lambda line: None) as cluster:
        (process_id,) = launcher.pids("router")
        async with a_client(cluster) as stub:
            # Until workers have told what their steps take, nobody waits in the router.
            await asyncio.gather(*(answer(stub, a_request([n] * 200, 20)) for n in range(6)))
            lengths = asyncio.create_task(streams(stub))
            await until_somebody_waits(cluster.addresses.http)
            os.kill(process_id, signal.SIGSTOP)
            await asyncio.sleep(STOPPED_S)
            os.kill(process_id, signal.SIGCONT)
            assert await lengths == NUM_STREAMS * [200] + NUM_WAITING * [40]
