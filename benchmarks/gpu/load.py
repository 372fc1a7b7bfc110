"""Streams of requests to a cluster, with the times of their tokens."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Served:
    """One request's times in seconds: when it came, its first token, its last."""

    arrival_s: float
    first_s: float
    last_s: float
    num_tokens: int

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.arrival_s

    @property
    def tpot_s(self) -> float:
        return (self.last_s - self.first_s) / max(1, self.num_tokens - 1)


@dataclass(frozen=True, slots=True)
class Shape:
    """Prompts of random tokens, none of which any worker has cached."""

    prompt: int
    output: int
    vocab_size: int

    def requests(self, count: int, seed: int) -> list[pb.GenerateRequest]:
        draw = random.Random(seed)
        return [
            pb.GenerateRequest(
                token_ids=pb.TokenIds(
                    ids=[draw.randrange(5, self.vocab_size) for _ in range(self.prompt)]
                ),
                max_tokens=self.output,
                ignore_eos=True,
                sampling=pb.Sampling(temperature=0.0),
            )
            for _ in range(count)
        ]


@dataclass(frozen=True, slots=True)
class Targets:
    """What a request must keep to count for goodput."""

    ttft_s: float
    tpot_s: float

    def met(self, served: Served) -> bool:
        return served.ttft_s <= self.ttft_s and served.tpot_s <= self.tpot_s


def throughput(served: Sequence[Served], targets: Targets | None = None) -> float:
    """Requests per second from the first arrival to the last token; of those in time only, with
    targets."""
    whole_s = max(it.last_s for it in served) - min(it.arrival_s for it in served)
    return sum(targets is None or targets.met(it) for it in served) / whole_s


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def worst(values: Sequence[float]) -> float:
    """The 90th percentile, the largest of the lower nine tenths."""
    return sorted(values)[max(0, int(len(values) * 0.9) - 1)]


async def at_a_time(
    address: str, requests: Sequence[pb.GenerateRequest], count: int
) -> list[Served]:
    """Closed loop: the next request comes when one ends."""
    permits = asyncio.Semaphore(count)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = rpc.InferenceStub(channel)  # type: ignore[no-untyped-call]

        async def one(request: pb.GenerateRequest) -> Served:
            async with permits:
                return await _serve(stub, request)

        return list(await asyncio.gather(*map(one, requests)))


async def at_rate(
    address: str, requests: Sequence[pb.GenerateRequest], per_s: float, seed: int
) -> list[Served]:
    """Open loop: requests come at random, this many a second, whatever becomes of those before."""
    draw, coming = random.Random(seed), list[asyncio.Task[Served]]()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = rpc.InferenceStub(channel)  # type: ignore[no-untyped-call]
        for request in requests:
            coming.append(asyncio.create_task(_serve(stub, request)))
            await asyncio.sleep(draw.expovariate(per_s))
        return list(await asyncio.gather(*coming))


async def _serve(stub: rpc.InferenceStub, request: pb.GenerateRequest) -> Served:
    arrival_s, first_s, num_tokens = time.perf_counter(), None, 0
    async for response in stub.Generate(request, timeout=TIMEOUT_S):
        if response.token_ids:
            first_s = first_s or time.perf_counter()
            num_tokens += len(response.token_ids)
    assert first_s is not None, "an answer without tokens"
    return Served(arrival_s, first_s, time.perf_counter(), num_tokens)
