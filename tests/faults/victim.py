"""A worker process that is stopped and killed, and the settings that both sides share."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Any

from runtime.session import OpenedSession, SessionClosed, open_session
from wire.identity import Role
from wire.messages import Hello, Report, WantSnapshot

ROOT = Path(__file__).resolve().parents[2]
STAMPS = {Role.PREFILL: 1, Role.DECODE: 2}
NUM_LAYERS, WIDTH = 4, 256
"""16 KiB of cache for a token: a prompt of 2,000 is 32 MB, which takes a while to travel."""
MIB = 1024 * 1024


def settings(role: Role, ucx_tls: str | None) -> dict[str, Any]:
    """Of a worker with short deadlines and large blocks."""
    ucx_env = {"UCX_NET_DEVICES": "lo"} | ({"UCX_TLS": ucx_tls} if ucx_tls else {})
    return {
        "model": "m",
        "runner": "arithmetic",
        "worker_id": role.value,
        "stamp": STAMPS[role],
        "width": WIDTH,
        "num_layers": NUM_LAYERS,
        "cache_bytes": 96 * MIB,
        "max_model_len": 4096,
        "ucx_env": ucx_env,
        "handoff_deadline_s": 3.0,
        "transfer_deadline_s": 1.5,
        "fence_deadline_s": 1.0,
    }


class Victim:
    """`opened` is a router's session with it."""

    def __init__(self, process: Process, address: str, opened: OpenedSession) -> None:
        self.process = process
        self.address = address
        self.opened = opened

    @classmethod
    async def start(cls, role: Role, ucx_tls: str | None) -> Victim:
        given = settings(role, ucx_tls)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"{role.value}_worker", "--model", "m"),
            *("--runner", "arithmetic", "--settings", json.dumps(given)),
            cwd=ROOT,
            stdout=PIPE,
            stderr=DEVNULL,
        )
        assert process.stdout is not None
        address = json.loads(await process.stdout.readline())["address"]
        return cls(process, address, await call(address))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        self.opened.session.close()

    async def wake(self, deadline_s: float) -> bool:
        """Go on; True when it is idle again and its pool is whole, False when it was ended."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(deadline_s):
            while self.process.returncode is None:
                try:
                    if await self._whole():
                        return True
                except SessionClosed:
                    await asyncio.sleep(0.01)
        return False

    async def _whole(self) -> bool:
        self.opened.session.close()
        self.opened = await call(self.address)
        self.opened.session.send(WantSnapshot())
        while True:
            report = await self.opened.session.receive()
            if isinstance(report, Report):
                busy = report.num_running + report.num_waiting + report.num_handoffs
                return not busy and report.free_blocks == report.num_blocks


async def call(address: str) -> OpenedSession:
    return await open_session(address, Hello(caller_id="router"), timeout_s=5)
