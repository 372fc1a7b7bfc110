"""A source's processes are watched until none of them can write any more."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from wire.identity import ProcessRef
from worker.rank.this_process import this_process
from worker.sessions.write_guard import WriteGuard


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two, which do nothing until they are ended."""
    started = [
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)
    ]
    yield started
    for process in started:
        process.kill()
        process.communicate()


def refs(processes: list[subprocess.Popen[bytes]]) -> list[ProcessRef]:
    return [ProcessRef(this_process().host, process.pid) for process in processes]


async def test_all_processes_of_a_source_must_have_ended(
    processes: list[subprocess.Popen[bytes]],
) -> None:
    guard = WriteGuard(refs(processes), direct_access=True)
    waiting = asyncio.create_task(guard.wait(600.0))
    processes[0].kill()
    processes[0].wait()
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    processes[1].kill()
    await asyncio.wait_for(waiting, 60)
    guard.close()


async def test_those_who_neither_end_nor_speak_are_killed_and_no_others(
    processes: list[subprocess.Popen[bytes]],
) -> None:
    guard = WriteGuard(refs(processes), direct_access=True)
    processes[0].kill()
    processes[1].send_signal(signal.SIGSTOP)
    await asyncio.wait_for(guard.wait(0.05), 60)
    assert processes[1].wait() == -signal.SIGKILL
    guard.close()


async def test_a_source_that_says_that_it_is_quiet_is_believed(
    processes: list[subprocess.Popen[bytes]],
) -> None:
    guard = WriteGuard(refs(processes), direct_access=True)
    guard.set_quiet()
    await asyncio.wait_for(guard.wait(0.05), 60)
    assert [process.poll() for process in processes] == [None, None]
    guard.close()


@pytest.mark.parametrize("direct_access", [True, False])
async def test_elsewhere_there_is_nothing_to_wait_for(direct_access: bool) -> None:
    host = "another" if direct_access else this_process().host
    guard = WriteGuard([ProcessRef(host, 1)], direct_access=direct_access)
    await asyncio.wait_for(guard.wait(600.0), 60)
    guard.close()
