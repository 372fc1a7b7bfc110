"""Worker processes that tests speak to as a router would, without one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from runtime.session import open_session
from tests.system.shells import children_of, command_of
from wire.identity import AttemptId, Role
from wire.messages import (
    Destination,
    Failed,
    Handed,
    Hello,
    Kept,
    Message,
    StepOutputs,
    Submit,
    WantSnapshot,
    WorkerCard,
)
from wire.reports import Report
from wire.sampling import SamplingParams
from wire.traits import RequestTraits

ROOT = Path(__file__).resolve().parents[2]


class RunningWorker:
    """One process, with its children, and everything that it has said."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.said: list[Message] = []
        self.card: WorkerCard
        self._more = asyncio.Event()

    async def listen(self) -> None:
        assert self.process.stdout is not None
        address = json.loads(await self.process.stdout.readline())["address"]
        opened = await open_session(address, Hello(caller_id="router"), timeout_s=60)
        self.card, self.session = opened.card, opened.session
        self._ear = asyncio.create_task(self._hear())

    @property
    def address(self) -> Destination:
        return Destination(self.card.ref, self.card.address)

    @property
    def children(self) -> list[int]:
        """Its other ranks, in their order."""
        found = children_of(self.process.pid)
        return sorted(pid for pid in found if b"worker.ranks" in command_of(pid))

    def submit(
        self,
        attempt_id: AttemptId,
        prompt: list[int],
        sampling: SamplingParams,
        to: RunningWorker | None = None,
    ) -> None:
        """What is cached of it is found by nobody else, and what others have cached is not."""
        self.session.send(
            Submit(
                attempt_id=attempt_id,
                tokens=tuple(prompt),
                num_prompt=len(prompt),
                sampling=sampling,
                destination=None if to is None else to.address,
                traits=RequestTraits(cache_salt=str(attempt_id).encode()),
            )
        )

    def tokens(self, attempt_id: AttemptId) -> dict[int, int]:
        """By position."""
        outputs = [
            out for each in self.said if isinstance(each, StepOutputs) for out in each.outputs
        ]
        return {
            out.position + offset: token
            for out in outputs
            if out.attempt_id == attempt_id
            for offset, token in enumerate(out.tokens)
        }

    async def hears(self, attempt_id: AttemptId | None, *kinds: type[Message]) -> Message:
        """The first of these kinds about the attempt, or about none, that it has said or will
        say."""
        num_seen = 0
        while True:
            for message in self.said[num_seen:]:
                if (
                    isinstance(message, kinds)
                    and getattr(message, "attempt_id", None) == attempt_id
                ):
                    return message
            num_seen = len(self.said)
            await self._news()

    async def has_answered(self, attempt_id: AttemptId, num_tokens: int) -> None:
        while len(self.tokens(attempt_id)) < num_tokens:
            await self._news()

    async def takes_part_in_a_handoff(self) -> None:
        while True:
            self.said.clear()
            report = await self.hears(None, Report)
            assert isinstance(report, Report)
            if report.num_handoffs:
                return

    async def is_whole(self) -> None:
        """Returns when it has nothing to do, and all blocks are free."""
        while True:
            self.said.clear()
            self.session.send(WantSnapshot())
            report = await self.hears(None, Report)
            assert isinstance(report, Report)
            busy = report.num_running + report.num_waiting + report.num_handoffs
            if not busy and report.free_blocks == report.num_blocks:
                return

    async def ends(self) -> int:
        """Its exit status."""
        status = await self.process.wait()
        self._ear.cancel()
        return status

    async def stop(self) -> None:
        self.session.close()
        with suppress(ProcessLookupError):
            self.process.terminate()
        await self.ends()

    async def _hear(self) -> None:
        async for message in self.session.messages():
            self.said.append(message)
            self._more.set()

    async def _news(self) -> None:
        self._more.clear()
        await self._more.wait()


async def start_worker(role: Role, model: Path, **settings: Any) -> RunningWorker:
    given = {
        "threads": 1,
        "ucx_env": {"UCX_NET_DEVICES": "lo"},
        "cache_bytes": 4 << 20,
        "staging_bytes": 4 << 20,
        "drain_timeout_s": 1.0,
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"{role.value}_worker", "--model", str(model)),
        *("--settings", json.dumps(given), "--log-level", "warning"),
        cwd=ROOT,
        stdout=PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return RunningWorker(process)


@asynccontextmanager
async def workers(*starting: Any) -> AsyncIterator[list[RunningWorker]]:
    """All at the same time, from `start_worker`."""
    running: list[RunningWorker] = await asyncio.gather(*starting)
    try:
        await asyncio.gather(*(worker.listen() for worker in running))
        yield running
    finally:
        await asyncio.gather(*(worker.stop() for worker in running))


async def handed_over(
    attempt_id: AttemptId,
    prompt: list[int],
    sampling: SamplingParams,
    source: RunningWorker,
    to: RunningWorker,
) -> tuple[list[int], Handed]:
    """The answer of both together, and what moved."""
    source.submit(attempt_id, prompt, sampling, to)
    hearing = {
        asyncio.create_task(source.hears(attempt_id, Kept, Failed)),
        asyncio.create_task(to.hears(attempt_id, Handed)),
    }
    done, pending = await asyncio.wait(hearing, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    message = done.pop().result()
    assert isinstance(message, Handed), message
    await to.has_answered(attempt_id, sampling.max_tokens)
    merged = {**source.tokens(attempt_id), **to.tokens(attempt_id)}
    return [merged[position] for position in sorted(merged)], message
