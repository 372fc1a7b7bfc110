"""A terminal that is closed while a cluster runs in it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from tests.system.shells import ROOT, children_of, wait_until_ended

UP = ("-m", "cluster", "up", "--without-ray", "--set", "worker.runner=arithmetic")


def test_a_closed_terminal_drains_the_cluster_and_leaves_nothing_behind() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, *UP],
        cwd=ROOT,
        preexec_fn=lambda: os.login_tty(theirs),  # the process leads the terminal's session
    ) as up:
        os.close(theirs)
        said = b""
        while b"Ctrl-C stops" not in said:
            said += os.read(ours, 4096)
        children = children_of(up.pid)
        assert len(children) == 3
        os.close(ours)
        assert up.wait(60) == 0
    wait_until_ended(children)
