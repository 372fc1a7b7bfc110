"""The worker that lives on, in this process, so that every byte of its pool can be looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from cluster.roles import POLICIES
from tests.faults.victim import call
from wire.identity import Role
from worker.config import WorkerConfig
from worker.host import Worker

T = TypeVar("T")
CANARY = 0x5A5A5A5A


class Survivor:
    """`session` is a router's."""

    def __init__(self, role: Role, settings: dict[str, Any]) -> None:
        config = msgspec.convert(settings, WorkerConfig)
        self.crashed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.worker = Worker(config, role, POLICIES, on_crash=self.crashed.set_result)

    async def start(self) -> None:
        card = await self.worker.start()
        self.session = (await call(card.address)).session

    async def until_whole(self, deadline_s: float) -> None:
        """Raises TimeoutError when its blocks do not come back."""
        async with asyncio.timeout(deadline_s):
            while not await self.is_whole():
                pass
        await self.in_steps(self.worker.engine.pool.check_integrity)

    async def is_whole(self) -> bool:
        return await self.in_steps(self._is_whole)

    async def occupy(self) -> list[int]:
        """Become the next owner of every block, and write into each."""
        return await self.in_steps(self._occupy)

    async def is_changed(self, blocks: list[int]) -> bool:
        """Whether anything in those blocks is not what their owner wrote; the blocks go back."""

        def look() -> bool:
            changed = self._is_changed(blocks)
            self.worker.engine.pool.release(blocks)
            return changed

        return await self.in_steps(look)

    async def in_steps(self, work: Callable[[], T]) -> T:
        """In the thread that owns the pool."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            result = work()
            loop.call_soon_threadsafe(lambda: done.done() or done.set_result(result))

        self.worker._steps.call(run)
        await asyncio.wait((done, self.crashed), return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise RuntimeError("the survivor crashed") from self.crashed.result()
        return done.result()

    def _is_whole(self) -> bool:
        pool = self.worker.engine.pool
        return self.worker.idle and pool.num_free == pool.num_blocks

    def _allocate(self) -> list[int]:
        pool = self.worker.engine.pool
        blocks = pool.try_allocate(pool.num_free)
        assert blocks is not None
        return blocks

    def _occupy(self) -> list[int]:
        blocks = self._allocate()
        self._cache[blocks] = CANARY
        return blocks

    def _is_changed(self, blocks: list[int]) -> bool:
        return bool((self._cache[blocks] != CANARY).any())

    @property
    def _cache(self) -> Any:
        return self.worker.engine.runner._cache  # type: ignore[attr-defined]
