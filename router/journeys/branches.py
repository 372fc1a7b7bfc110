"""Several answers to one prompt, which is computed once; and several streams read as one.

The first branch goes through the fleet like any request. Once a worker decodes it, that worker has
the prompt's blocks: the other branches are submitted there, where they find them in the prefix
cache, and from then on each is a journey of its own, with failures of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec

from router.journeys.journey import Journey
from router.requests.request import Delta, GenerateRequest
from wire.identity import WorkerRef


class StartBranch(Protocol):
    """`at` is the worker that has the prompt, None when nothing is known of one."""

    def __call__(
        self, request: GenerateRequest, branch: int, at: WorkerRef | None
    ) -> tuple[Journey, AsyncGenerator[Delta, None]]: ...


async def branch_out(request: GenerateRequest, start: StartBranch) -> AsyncGenerator[Delta, None]:
    """All answers, their deltas mixed as they come; the first that fails fails them all."""
    first, deltas = start(request, 0, None)
    streams = Streams([deltas])
    alone = True
    async with aclosing(streams.read()) as merged:
        async for delta in merged:
            home = first.record.home
            if alone and (home is not None or delta.ending is not None):
                alone = False
                for branch in range(1, request.n):
                    own = branch_request(request, branch, first.elapsed_s)
                    streams.add(start(own, branch, home)[1])
                    await asyncio.sleep(0)  # a long prompt takes time for each: others go between
            yield delta


def branch_request(request: GenerateRequest, branch: int, elapsed_s: float) -> GenerateRequest:
    """The same request with draws of its own, which its seed and number determine."""
    sampling = msgspec.structs.replace(
        request.sampling,
        seed=branch_seed(request.sampling.seed, branch),
        prompt_logprobs=None,  # those of the first are those of all
    )
    timeout_s = max(0.0, request.timeout_s - elapsed_s)
    return msgspec.structs.replace(request, sampling=sampling, timeout_s=timeout_s)


def branch_seed(seed: int, branch: int) -> int:
    """63 bits; the first branch draws as a request alone would."""
    if branch == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{branch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class _Ended(msgspec.Struct, frozen=True):
    """A stream has no more; `error` says when that is no good end."""

    error: Exception | None = None


class Streams:
    """Async generators read as one, each by a task of its own; none runs far ahead of the reader,
    so that what a slow one does not read waits, and is coalesced, where it comes from."""

    def __init__(self, streams: Sequence[AsyncGenerator[Delta, None]]) -> None:
        self._items: asyncio.Queue[Delta | _Ended] = asyncio.Queue(maxsize=1)
        self._tasks: list[asyncio.Task[None]] = []
        self._num_open = 0
        for stream in streams:
            self.add(stream)

    def add(self, stream: AsyncGenerator[Delta, None]) -> None:
        self._num_open += 1
        self._tasks.append(asyncio.create_task(self._pump(stream), name="one of several streams"))

    async def read(self) -> AsyncGenerator[Delta, None]:
        """Until the last stream ends; raises the first error. All streams are closed after it."""
        try:
            while self._num_open:
                item = await self._items.get()
                if isinstance(item, Delta):
                    yield item
                elif item.error is not None:
                    raise item.error
                else:
                    self._num_open -= 1
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pump(self, stream: AsyncGenerator[Delta, None]) -> None:
        ended = _Ended()
        try:
            async with aclosing(stream):
                async for delta in stream:
                    await self._items.put(delta)
        except Exception as error:  # noqa: BLE001  # the reader raises it
            ended = _Ended(error)
        await self._items.put(ended)
