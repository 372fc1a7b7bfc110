"""A name may stand for several processes, which come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from runtime.names import for_each_address

pytestmark = pytest.mark.quick


class AName:
    """What it stands for now, and who is served."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: frozenset[str] | None = frozenset(addresses)
        self.served: set[str] = set()
        self.looked_up = asyncio.Condition()

    async def lookup(self, host: str) -> frozenset[str]:
        assert host == "routers.example"
        async with self.looked_up:
            self.looked_up.notify_all()
        if self.addresses is None:
            raise OSError("no such name")
        return self.addresses

    async def serve(self, address: str) -> None:
        self.served.add(address)
        try:
            await asyncio.Event().wait()
        finally:
            self.served.discard(address)

    async def change(self, *addresses: str, fails: bool = False) -> None:
        """Returns when that has been looked up twice: then it has had its effect."""
        self.addresses = None if fails else frozenset(addresses)
        async with self.looked_up:
            for _ in range(3):
                await self.looked_up.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        serving = for_each_address(
            "routers.example:8002", self.serve, lookup=self.lookup, every_s=0.0
        )
        task = asyncio.create_task(serving)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_every_address_is_served_and_those_that_come_later_too() -> None:
    name = AName("10.0.0.1", "10.0.0.2")
    async with name.running():
        await name.change("10.0.0.1", "10.0.0.2")
        assert name.served == {"10.0.0.1:8002", "10.0.0.2:8002"}
        await name.change("10.0.0.2", "10.0.0.3")
        assert name.served == {"10.0.0.2:8002", "10.0.0.3:8002"}


async def test_a_name_that_cannot_be_looked_up_leaves_things_as_they_were() -> None:
    name = AName("10.0.0.1")
    async with name.running():
        await name.change("10.0.0.1")
        await name.change(fails=True)
        assert name.served == {"10.0.0.1:8002"}


async def test_at_the_end_nobody_is_served() -> None:
    name = AName("10.0.0.1")
    async with name.running():
        await name.change("10.0.0.1")
    await asyncio.sleep(0)
    assert name.served == set()


async def test_an_address_is_no_name() -> None:
    served = []

    async def serve(address: str) -> None:
        served.append(address)

    await for_each_address("127.0.0.1:8002", serve)
    assert served == ["127.0.0.1:8002"]
