"""Commands that run beside a test, and what they leave behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Shell:
    """A child in a process group of its own, whose output is read line by line."""

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
