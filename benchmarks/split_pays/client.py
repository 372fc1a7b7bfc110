"""The client: the openai package, which sends each request at its time and reads its stream."""

from __future__ import annotations

import asyncio
import time

import msgspec
from openai import APIError, AsyncOpenAI

from benchmarks.split_pays.workload import Request

TIMEOUT_S = 300


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a client saw of one request; times in seconds, None where the answer is not complete."""

    request: Request
    ttft_s: float | None = None
    tpot_s: float | None = None
    error: str | None = None

    @property
    def good(self) -> bool:
        """Complete, and within both targets."""
        if self.ttft_s is None or self.tpot_s is None:
            return False
        return self.ttft_s <= self.request.ttft_s and self.tpot_s <= self.request.tpot_s


async def offer(address: str, requests: list[Request]) -> list[Outcome]:
    """Send all requests, each at its time whatever became of others; returns when all have
    ended."""
    url = f"http://{address}/v1"
    async with AsyncOpenAI(
        base_url=url, api_key="none", timeout=TIMEOUT_S, max_retries=0
    ) as client:
        (model,) = (await client.models.list()).data
        began = time.monotonic()

        async def one(request: Request) -> Outcome:
            await asyncio.sleep(began + request.at_s - time.monotonic())
            try:
                return await _ask(client, model.id, request)
            except APIError as error:
                return Outcome(request=request, error=str(error))

        return list(await asyncio.gather(*map(one, requests)))


async def _ask(client: AsyncOpenAI, model: str, request: Request) -> Outcome:
    sent = time.monotonic()
    stream = await client.completions.create(
        model=model,
        prompt=list(request.prompt),
        max_tokens=request.num_new,
        temperature=0.0,
        stream=True,
        extra_body={
            "ignore_eos": True,
            "slo": {"ttft_s": request.ttft_s, "tpot_s": request.tpot_s},
        },
    )
    first = last = sent
    async for chunk in stream:
        if chunk.choices:
            last = time.monotonic()
            first = last if first == sent else first
    spacing_s = (last - first) / (request.num_new - 1)
    return Outcome(request=request, ttft_s=first - sent, tpot_s=spacing_s)
