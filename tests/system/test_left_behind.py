"""What is left of a cluster whose own process is killed: nothing."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.system.shells import children_of

ROOT = Path(__file__).resolve().parents[2]
UP = ("-m", "cluster", "up", "--without-ray", "--set", "worker.runner=arithmetic")
GONE_MS = 60_000


def test_no_process_outlives_the_one_that_started_it() -> None:
    with subprocess.Popen(
        [sys.executable, *UP], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        children = _children_once_it_serves(parent)
        parent.kill()
    assert len(children) == 3
    for child in children:
        _wait_until_gone(child)


def _children_once_it_serves(parent: subprocess.Popen[str]) -> list[int]:
    assert parent.stdout is not None
    for line in parent.stdout:
        if re.match(r"ready +grpc", line):
            break
    # Opened while they live: a number alone might be another process's by the time one waits.
    return [os.pidfd_open(pid) for pid in children_of(parent.pid)]


def _wait_until_gone(child: int) -> None:
    poll = select.poll()
    poll.register(child, select.POLLIN)
    assert poll.poll(GONE_MS), "it lives on"
    os.close(child)


def test_a_closed_standard_input_is_no_reason_to_end_where_nobody_said_so() -> None:
    """Under systemd or Kubernetes nobody holds it."""
    worker = [sys.executable, "-m", "decode_worker", "--model", "tiny", "--runner", "arithmetic"]
    with subprocess.Popen(
        worker, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"{")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
