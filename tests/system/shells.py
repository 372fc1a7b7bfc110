"""Commands that run beside a test, and what they leave behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ATTEMPTS = 3
LISTENS = "0A"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
"""127.0.0.1 in /proc/net/tcp and tcp6."""


PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Which of the processes that run tests beside each other this is."""
FIRST_PORT = 20_000 + 3_000 * (PROCESS % 4)
FREE_PORTS = iter(range(FIRST_PORT + os.getpid() % 2_000, FIRST_PORT + 3_000))
"""Above those of Ray's workers and below those that the kernel gives to whoever asks for any; no
other process has the same."""


def a_free_port() -> int:
    """One that nobody is given by chance before it is used."""
    for port in FREE_PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port
    raise AssertionError("no port is free")


class Shell:
    """A child in a process group of its own, whose output is read line by line.

    As a context it is killed at the end, with its group, unless it was ended before.
    """

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.seen: list[str] = []

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # no descendant keeps the output open
            self.end(signal.SIGKILL)

    def line_with(self, pattern: str) -> re.Match[str]:
        """The next line that matches; fails with all output when the process ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no line with {pattern!r} in:\n{''.join(self.seen)}")

    def end(self, number: signal.Signals) -> int:
        """Signal the process; its exit status. Whatever is left of its group is killed."""
        assert self.process.stdout is not None
        self.process.send_signal(number)
        for line in self.process.stdout:
            self.seen.append(line)
        self.process.stdout.close()
        status = self.process.wait()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return status
        return status


def ray_head(arguments: Callable[[], list[str]], environment: dict[str, str]) -> Shell:
    """Started anew when Ray's own processes did not find each other in the 30 s that it gives
    them; `arguments` gives those of each attempt, which may need other ports."""

    def start() -> Shell:
        # Ray's default is a port that the kernel may have given to any connection. A job agent
        # that finds it taken lives on without its server, and no job can be submitted.
        return Shell([*arguments(), f"--dashboard-agent-listen-port={a_free_port()}"], environment)

    for _ in range(ATTEMPTS - 1):
        head = start()
        try:
            head.line_with("Ray runtime started")
            return head
        except AssertionError:
            head.end(signal.SIGKILL)
    head = start()
    head.line_with("Ray runtime started")
    return head


def wait_until_ended(process_ids: Iterable[int]) -> None:
    """Of processes that somebody else has started, and will end."""
    deadline, left = time.monotonic() + 60, list(process_ids)
    while left := [each for each in left if runs(each)]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)


def runs(process_id: int) -> bool:
    """Also False once it has ended and nobody has asked how."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def command_of(process_id: int) -> bytes:
    """Its words, each with a zero byte behind it; nothing once it has ended."""
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes()
    except OSError:
        return b""


def listens_at(process_ids: Iterable[int]) -> set[str]:
    """The addresses, as the kernel writes them in hexadecimal, at which any of them listens."""
    inodes: set[str] = set()
    for process_id in process_ids:
        for descriptor in Path(f"/proc/{process_id}/fd").glob("*"):
            with suppress(OSError):
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {it[1].partition(":")[0] for it in lines if it[3] == LISTENS and it[9] in inodes}


def children_of(process_id: int) -> set[int]:
    """All descendants that run now."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process_id:
            child = int(path.parent.name)
            found |= {child} | children_of(child)
    return found
