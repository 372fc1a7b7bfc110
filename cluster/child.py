"""A child process of the cluster, its ready line and its log."""

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

SHOWN_LEVELS = re.compile(r" (WARNING|ERROR|CRITICAL) ")
"""Log lines that are shown; all others are kept only to explain an exit."""
START_LINE = re.compile(rf" INFO (?:{'|'.join(map(re.escape, START_LOGGERS))}): (.*)")
ROOT = Path(__file__).resolve().parent.parent
ERROR_MARK = "error: "


class Child:
    """A child process. Its first line of output says that it serves, and at which addresses."""

    def __init__(
        self, name: str, arguments: list[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.process = subprocess.Popen(
            # -P: modules in the user's directory must not shadow our packages.
            [sys.executable, "-P", "-m", *arguments, "--until-stdin-ends"],
            stdin=subprocess.PIPE,  # closed when this process ends, for whatever reason
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which drains its children
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
        """The child's first line of output; None if it does not come within `timeout_s`.

        Raises StartFailed, with the reason, when the child has ended.
        """
        try:
            ready = self._ready.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if ready is None:
            raise StartFailed(self.exit_reason())
        return ready

    def exit_reason(self) -> str:
        self._readers[1].join(timeout=5)
        errors = [
            line.removeprefix(ERROR_MARK) for line in self._errors if line.startswith(ERROR_MARK)
        ]
        status = self.process.poll()
        if not errors and status == -signal.SIGKILL:
            return "killed by SIGKILL"  # earlier errors are not the reason
        return (errors or self._errors or [f"exit status {status}"])[-1]

    def stop(self, timeout_s: float) -> None:
        """Wait until the process ends, and kill it after `timeout_s`."""
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
                if (shown := shown_text(text)) is not None:
                    with suppress(OSError):  # the terminal may be closed; reading goes on
                        sys.stderr.write(f"{self.name}   {shown}\n")


def shown_text(line: str) -> str | None:
    """The text to show for a line of the child's log; None for lines that are not shown."""
    if start_line := START_LINE.search(line):
        return start_line[1]
    return line if SHOWN_LEVELS.search(line) else None


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{inherited}" if inherited else str(ROOT)
