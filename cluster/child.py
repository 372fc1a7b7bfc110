"""A child process of the cluster, and what it has to say."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cluster.errors import StartFailed
from runtime.logs import START_LOGGERS

WORTH_HEARING = re.compile(r" (WARNING|ERROR|CRITICAL) ")
"""Of what a child logs; the rest is kept for its last words."""
OF_ITS_START = re.compile(rf" INFO (?:{'|'.join(map(re.escape, START_LOGGERS))}): (.*)")
ROOT = Path(__file__).resolve().parent.parent
ERROR_MARK = "error: "


class Child:
    """A child process whose first line of output says that it serves, and where."""

    def __init__(
        self, name: str, arguments: list[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.process = subprocess.Popen(
            # -P: what lies in the user's directory is not imported in place of our packages.
            [sys.executable, "-P", "-m", *arguments, "--until-stdin-ends"],
            stdin=subprocess.PIPE,  # which ends with this process, however that ends
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent, which then drains its children
            env={**os.environ, **(environment or {}), "PYTHONPATH": _python_path()},
        )
        self._ready: queue.Queue[bytes | None] = queue.Queue()
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def wait_ready(self, timeout_s: float) -> bytes | None:
        """What it printed; None while it has not. Raises StartFailed, with why it ended."""
        try:
            ready = self._ready.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if ready is None:
            raise StartFailed(self.last_words())
        return ready

    def last_words(self) -> str:
        self._readers[1].join(timeout=5)
        errors = [
            line.removeprefix(ERROR_MARK) for line in self._errors if line.startswith(ERROR_MARK)
        ]
        status = self.process.poll()
        if not errors and status == -signal.SIGKILL:
            return "killed by SIGKILL"  # what it wrote before has nothing to do with it
        return (errors or self._errors or [f"exit status {status}"])[-1]

    def stop(self, timeout_s: float) -> None:
        """Terminate gently, then not."""
        try:
            self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        for reader in self._readers:
            reader.join()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                if line.startswith(b"{"):
                    self._ready.put(line)
        self._ready.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as errors:
            for line in errors:
                text = line.decode(errors="replace").rstrip()
                self._errors = [*self._errors[-50:], text]
                if (heard := worth_hearing(text)) is not None:
                    with suppress(OSError):  # the terminal may be closed, the child is heard on
                        sys.stderr.write(f"{self.name}   {heard}\n")


def worth_hearing(line: str) -> str | None:
    """What a person should read of a line that a child logs; None for nothing."""
    if of_start := OF_ITS_START.search(line):
        return of_start[1]
    return line if WORTH_HEARING.search(line) else None


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{inherited}" if inherited else str(ROOT)
