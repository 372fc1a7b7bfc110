"""Streams that run while a worker changes its role, and the operator who changes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import msgspec

from cluster.running import RunningCluster
from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc
from wire.identity import Role

PATIENCE_S = 120


class Answer(msgspec.Struct, frozen=True):
    """A whole answer, who served it, and how much of its prompt was cached."""

    tokens: tuple[int, ...]
    prefilled_by: str
    decoded_by: str
    num_attempts: int
    num_cached: int


class Streams:
    """Requests of which some are under way at a time, and how many tokens have come so far."""

    def __init__(self, stub: rpc.InferenceStub, requests: list[pb.GenerateRequest]) -> None:
        self.num_tokens = 0
        self._stub = stub
        self._requests = requests
        self._came = asyncio.Condition()

    async def run(self, at_a_time: int) -> list[Answer]:
        """All answers, in the order of their requests."""
        permits = asyncio.Semaphore(at_a_time)

        async def one(request: pb.GenerateRequest) -> Answer:
            async with permits:
                return await self._read(request)

        return list(await asyncio.gather(*map(one, self._requests)))

    async def until(self, num_tokens: int) -> None:
        """Wait until so many tokens have come."""
        async with asyncio.timeout(PATIENCE_S), self._came:
            await self._came.wait_for(lambda: self.num_tokens >= num_tokens)

    async def _read(self, request: pb.GenerateRequest) -> Answer:
        tokens: list[int] = []
        last = pb.GenerateResponse()
        async for last in self._stub.Generate(request, timeout=PATIENCE_S):
            tokens += last.token_ids
            async with self._came:
                self.num_tokens += len(last.token_ids)
                self._came.notify_all()
        served = last.served_by
        return Answer(
            tuple(tokens),
            served.prefill_worker_id,
            served.decode_worker_id,
            served.attempts,
            last.usage.cached_tokens,
        )


class Operator:
    """Looks at roles and changes them, at a router's admin port."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def roles(self) -> dict[str, Role]:
        """By worker, as it has last reported."""
        listed = (await self._http.get("/roles")).json()["workers"]
        return {each["worker"]: Role(each["role"]) for each in listed}

    async def change(self, worker: str, role: Role) -> None:
        """Ask for a role; returns when the worker has reported it."""
        asked = await self._http.post("/roles", json={"worker": worker, "role": role.value})
        assert asked.status_code == 202, asked.text
        async with asyncio.timeout(PATIENCE_S):
            while (await self.roles())[worker] is not role:
                pass


@asynccontextmanager
async def an_operator(cluster: RunningCluster) -> AsyncIterator[Operator]:
    base_url = f"http://{cluster.addresses.admin}"
    async with httpx2.AsyncClient(base_url=base_url, trust_env=False, timeout=60) as http:
        yield Operator(http)


def salted(request: pb.GenerateRequest, salt: str) -> pb.GenerateRequest:
    """The same request, which finds cached only what came with the same salt."""
    copy = pb.GenerateRequest()
    copy.CopyFrom(request)
    copy.cache_salt = salt
    return copy
