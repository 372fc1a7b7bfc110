"""A worker, of one process or of several, that is stopped and killed."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Any

from runtime.session import OpenedSession, SessionClosed, open_session
from tests.system.shells import children_of
from wire.identity import Role
from wire.messages import Hello, WantSnapshot
from wire.reports import Report

ROOT = Path(__file__).resolve().parents[2]


class Victim:
    """`opened` is a router's session with it."""

    def __init__(self, process: Process, address: str, opened: OpenedSession) -> None:
        self.process = process
        self.address = address
        self.opened = opened
        self.ranks = [process.pid, *sorted(children_of(process.pid))]
        """Process ids."""
        self._pidfds = [os.pidfd_open(pid) for pid in self.ranks]

    @classmethod
    async def start(cls, role: Role, settings: dict[str, Any]) -> Victim:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"{role.value}_worker", "--model", settings["model"]),
            *("--settings", json.dumps(settings)),
            cwd=ROOT,
            stdout=PIPE,
            stderr=DEVNULL,
        )
        assert process.stdout is not None
        address = json.loads(await process.stdout.readline())["address"]
        return cls(process, address, await call(address))

    def strike(self, rank: int, number: signal.Signals) -> None:
        """Also one that has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfds[rank], number)

    async def kill(self) -> None:
        self.strike(0, signal.SIGKILL)
        await self.end()

    async def end(self) -> None:
        """Returns when it has ended, by itself."""
        await self.process.wait()
        self.opened.session.close()

    def left_behind(self, deadline_s: float) -> list[int]:
        """Process ids, of a worker that has ended; may be called once."""
        left, give_up_at = [], time.monotonic() + deadline_s
        for pid, pidfd in zip(self.ranks, self._pidfds, strict=True):
            patience_s = max(0.0, give_up_at - time.monotonic())
            if not select.select([pidfd], [], [], patience_s)[0]:
                left.append(pid)
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        return left

    async def wake(self, rank: int, deadline_s: float) -> bool:
        """Go on; True when it is idle again and its pool is whole, False when it was ended."""
        self.strike(rank, signal.SIGCONT)
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
    return await open_session(address, Hello(caller_id="router"), timeout_s=60)
