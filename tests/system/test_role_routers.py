"""Roles that follow the load with several routers, one of which is killed: real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from typing import NamedTuple

import grpc
import httpx2
import pytest

from cluster.config import load_config
from cluster.process_launcher import ProcessLauncher
from cluster.running import RunningCluster, running
from router.config import RouterAddresses
from tests.system.clusters import LOOPBACK
from tests.system.role_streams import Operator
from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc
from wire.identity import Role

STEP_S = 0.03
"""Far longer than what a busy machine adds to a step."""
SETTINGS = {
    "num_routers": 2,
    "prefill.replicas": 1,
    "decode.replicas": 2,
    "worker.runner": "arithmetic",
    "worker.step_costs": {"step_s": STEP_S, "sequence_s": 0.003, "prompt_token_s": 0.0005},
    "worker.ucx_env": LOOPBACK,
    "worker.cache_bytes": 4 << 20,
    "router.roles": "follow",
    "router.admin_port": 0,
}
PATIENCE_S = 60
CHANNELS = 8
"""Connections go to either router as the kernel likes: with so many, both have some."""
Roles = dict[str, Role]


class Traffic(NamedTuple):
    """What each of a client's connections asks for, again and again."""

    num_prompt: int
    num_new: int
    tpot_s: float


PROMPTS = Traffic(num_prompt=600, num_new=4, tpot_s=0.07)
ANSWERS = Traffic(num_prompt=8, num_new=40, tpot_s=0.3)


class Routers:
    """The routers of a running cluster, in the order of their ids: the first decides."""

    def __init__(self, cluster: RunningCluster, launcher: ProcessLauncher) -> None:
        self.cluster = cluster
        of_slots = [slot.router.addresses for slot in cluster._routers.slots]
        with_pids = zip(of_slots, launcher.pids("router"), strict=True)
        self.addresses: list[RouterAddresses] = []
        self._pids: list[int] = []
        for addresses, pid in sorted(with_pids, key=lambda each: each[0].router_id):
            self.addresses.append(addresses)
            self._pids.append(pid)

    def kill_the_deciding_one(self) -> None:
        self.addresses.pop(0)
        os.kill(self._pids.pop(0), signal.SIGKILL)

    async def roles(self) -> list[Roles]:
        """As each router has them."""
        found = []
        for addresses in self.addresses:
            base_url = f"http://{addresses.admin}"
            async with httpx2.AsyncClient(base_url=base_url, trust_env=False, timeout=60) as http:
                found.append(await Operator(http).roles())
        return found

    async def agree_on(self, num_prefill: int, num_workers: int = 3) -> Roles:
        """Returns when every router has so many prefill workers, and the same roles."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                first, *others = await self.roles()
                prefills = [*first.values()].count(Role.PREFILL)
                same = all(each == first for each in others)
                if same and (len(first), prefills) == (num_workers, num_prefill):
                    return first


@pytest.fixture
def routers() -> Iterator[Routers]:
    launcher = ProcessLauncher()
    with running(load_config(None, SETTINGS), launcher, lambda line: None) as cluster:
        yield Routers(cluster, launcher)


@asynccontextmanager
async def load(routers: Routers, traffic: Traffic) -> AsyncIterator[None]:
    """Requests over several connections meanwhile; those of a router that dies end with it."""
    async with AsyncExitStack() as stack:
        tasks = []
        for number in range(CHANNELS):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = grpc.aio.insecure_channel(routers.addresses[0].grpc, options=options)
            stub = rpc.InferenceStub(await stack.enter_async_context(channel))
            tasks.append(asyncio.create_task(_ask(stub, traffic, number)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _ask(stub: rpc.InferenceStub, traffic: Traffic, seed: int) -> None:
    for number in count():
        prompt = [(seed + 31 * number + 7 * each) % 2048 for each in range(traffic.num_prompt)]
        request = pb.GenerateRequest(
            token_ids=pb.TokenIds(ids=prompt),
            max_tokens=traffic.num_new,
            ignore_eos=True,
            slo=pb.Slo(tpot_s=traffic.tpot_s),
        )
        with suppress(grpc.aio.AioRpcError):  # refused, or its router is gone
            async for _ in stub.Generate(request, timeout=PATIENCE_S):
                pass


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_another_router_decides_when_the_deciding_one_is_killed(routers: Routers) -> None:
    async with load(routers, PROMPTS):
        await routers.agree_on(num_prefill=2)
    routers.kill_the_deciding_one()
    async with load(routers, ANSWERS):
        await routers.agree_on(num_prefill=0)
    async with load(routers, PROMPTS):
        await routers.agree_on(num_prefill=2)
