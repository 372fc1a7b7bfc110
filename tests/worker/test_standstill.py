"""A step that never ends is found out, and its worker with it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from cluster.roles import POLICIES
from engine.runners.arithmetic_runner import ArithmeticRunner
from runtime.session import open_session
from tests.worker.test_live import PATIENCE_S, a_submit
from wire.identity import Role
from wire.messages import Hello
from worker.config import RunnerKind, WorkerConfig
from worker.host import Worker
from worker.standstill import Standstill, StepHangs

HELD_UP = """
import asyncio, ctypes
from worker.standstill import end_when_held_up

async def main():
    asyncio.create_task(end_when_held_up(0.5))
    await asyncio.sleep(0)
    await asyncio.to_thread(call_of_a_driver)

def call_of_a_driver():
    ctypes.PyDLL(None).pause()  # holds the interpreter's lock until a signal comes

asyncio.run(main())
"""


def test_looks_at_one_turn_are_counted_from_its_first() -> None:
    standstill = Standstill()
    assert [standstill.poll(turn) for turn in (1, 1, 1, 2, 2, 5)] == [0, 1, 2, 0, 1, 0]


async def test_a_worker_whose_device_hangs_in_a_step_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    run = ArithmeticRunner.run

    def hang(self: ArithmeticRunner, *given: Any) -> Any:
        release.wait(PATIENCE_S)
        return run(self, *given)

    monkeypatch.setattr(ArithmeticRunner, "run", hang)
    crashed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    config = WorkerConfig(
        model="m", runner=RunnerKind.ARITHMETIC, transport="memory", step_timeout_s=2.0
    )
    worker = Worker(config, Role.DECODE, POLICIES, on_crash=crashed.set_result)
    card = await worker.start()
    async with asyncio.timeout(PATIENCE_S):
        opened = await open_session(card.address, Hello(caller_id="router"), timeout_s=PATIENCE_S)
        opened.session.send(a_submit("x"))
        found = await crashed
    assert isinstance(found, StepHangs)
    assert str(found) == "a step has not ended after 2 s (step_timeout_s)"
    release.set()
    opened.session.close()
    await worker.stop()


def test_a_process_ends_when_a_call_keeps_the_interpreter_s_lock_and_says_which() -> None:
    command = [sys.executable, "-c", HELD_UP]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == 1
    assert "in call_of_a_driver" in ended.stderr
