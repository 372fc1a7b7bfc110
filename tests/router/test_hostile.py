"""One of each kind of hostile client, all at once: nothing of them is left."""

from __future__ import annotations

import asyncio
import socket

from benchmarks.hostile.attacks import ATTACKS, Aim
from tests.router.conftest import StartStage
from tests.router.test_generate import generate
from tests.router.test_unread import never_ending
from wire.identity import Role


async def test_nothing_is_left_of_hostile_clients(start_stage: StartStage) -> None:
    stage = await start_stage(max_unread_bytes=20_000)
    doors = stage.server._servers
    (listener,) = doors._http._server.sockets
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    worker = await stage.add("lone", Role.DECODE, script=[65, 66])
    ordinary = worker.serve
    worker.serve = lambda submit: (
        ordinary(submit) if submit.sampling.max_tokens < 100 else never_ending(worker, submit)
    )
    aim = Aim(stage.addresses.http, stage.addresses.grpc, hold_s=0.3)
    async with asyncio.timeout(60):
        await asyncio.gather(*(attack(aim) for attack in ATTACKS for _ in range(2)))
    await stage.until(lambda: not (doors._http.num_connections or doors._http.num_requests))
    await stage.until(lambda: stage.server.conductor.num_in_flight == 0)
    assert stage.server.conductor.unread.num_bytes == 0
    assert stage.server.conductor._journeys == set()
    assert all(task.done() for task in worker.tasks.values())
    assert (await generate(stage))[-1].usage.completion_tokens == 3
