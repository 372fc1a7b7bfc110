"""Runs a part in a process of its own, whose findings are shown as they come.

A process of its own, because an error of CUDA leaves its process unusable, and because what hangs
in a driver can only be killed.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO

import msgspec

from benchmarks.gpu.finding import Finding, Kind, failed
from benchmarks.gpu.part import Outcome, Part
from benchmarks.measure import family

GRACE_S = 5.0
"""How long a part that is told to end may take, which includes stopping its workers."""
ENDED = "the part ended"
_POLL_S = 0.2
_POLLS = 50
"""How often to look for what a hanging process writes."""
_LOG_LINES = 60

Show = Callable[[Finding], None]


def run_isolated(
    part: Part,
    device: str,
    attention: str,
    limit_s: float,
    show: Show,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Run the part; raises nothing for what it does. Ctrl-C and `limit_s` kill it."""
    started, findings, interrupted = clock(), list[Finding](), False

    def add(finding: Finding) -> None:
        findings.append(finding)
        show(finding)

    with tempfile.TemporaryFile() as log:
        process, reader = _start(part, device, attention, log)
        try:
            for finding in _findings(process, reader, lambda: started + limit_s - clock()):
                add(finding)
            if (ended := _ended(process, limit_s, findings, log)) is not None:
                add(ended)
        except KeyboardInterrupt:
            interrupted = True
            add(failed(ENDED, "interrupted"))
        finally:
            kill_family(process)
            os.close(reader)
        tail = _tail(log) if any(it.kind is Kind.FAILED for it in findings) else ()
    return Outcome(part.name, clock() - started, tuple(findings), part.checks, tail, interrupted)


def kill_family(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it has started, if it runs: by asking first, then by SIGKILL."""
    if process.poll() is not None:
        return
    members = family(process.pid)
    process.terminate()
    try:
        process.wait(GRACE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        members += family(process.pid)
        process.kill()
    process.wait()
    for pid in dict.fromkeys(members[1:]):
        _kill(pid)


def _start(
    part: Part, device: str, attention: str, log: IO[bytes]
) -> tuple[subprocess.Popen[bytes], int]:
    reader, writer = os.pipe()
    arguments = [part.module, part.name, device, attention, str(writer)]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu.child", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=(writer,),
        start_new_session=True,  # Ctrl-C reaches the script alone
        env={**os.environ, **_environment(part, device)},
    )
    os.close(writer)
    return process, reader


def _environment(part: Part, device: str) -> dict[str, str]:
    """On a CPU one thread: for sizes as small as these, several only get into each other's way."""
    return {"OMP_NUM_THREADS": "1", **part.cpu_environment} if device == "cpu" else {}


def _findings(
    process: subprocess.Popen[bytes], reader: int, left_s: Callable[[], float]
) -> Iterator[Finding]:
    """What it reports until it ends, or until no time is left."""
    buffer = b""
    while left_s() > 0:
        if not select.select([reader], [], [], _POLL_S)[0]:
            if process.poll() is not None:
                return
            continue
        read = os.read(reader, 1 << 16)
        *lines, buffer = (buffer + read).split(b"\n")
        yield from (msgspec.json.decode(line, type=Finding) for line in lines)
        if not read:
            _wait(process, max(0.0, left_s()))
            return


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _ended(
    process: subprocess.Popen[bytes], limit_s: float, findings: list[Finding], log: IO[bytes]
) -> Finding | None:
    """How it ended, where that needs saying."""
    status = process.poll()
    if status is None:
        _ask_where(process, log)
        return failed(ENDED, f"killed: not over after {limit_s:.0f} s")
    if status < 0:
        return failed(ENDED, f"killed by {signal.Signals(-status).name}")
    if status and not any(finding.kind is Kind.FAILED for finding in findings):
        return failed(ENDED, f"exit status {status}")
    return None


def _ask_where(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Have a process that hangs write to its log what each of its threads does."""
    before = size = os.fstat(log.fileno()).st_size
    os.kill(process.pid, signal.SIGUSR1)
    for _ in range(_POLLS):
        time.sleep(_POLL_S)
        size, last = os.fstat(log.fileno()).st_size, size
        if before < size == last:
            return


def _tail(log: IO[bytes]) -> tuple[str, ...]:
    log.seek(0)
    return tuple(log.read().decode(errors="replace").splitlines()[-_LOG_LINES:])


def _kill(pid: int) -> None:
    """Kill a process that is no child of ours, and wait until its memory is free."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], GRACE_S)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
