"""Several routers behind the same ports, and routers that die: real processes."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request

from cluster.config import load_config
from cluster.process_launcher import ProcessLauncher
from cluster.running import RunningCluster, running
from tests.system.clusters import ARITHMETIC, PREFILL_STAMP

MOST_TRIES = 200
SETTINGS = {**ARITHMETIC, "num_routers": 2, "decode.worker.stamp": PREFILL_STAMP}
"""A router that has just started may know one worker only: all make the same tokens here."""
BODY = {"model": "tiny-python", "prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True}


def ask(cluster: RunningCluster) -> str:
    """The answer's text, over a connection of its own."""
    url = f"http://{cluster.addresses.http}/v1/completions"
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(BODY).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["choices"][0]["text"])


def test_two_routers_behind_one_port_serve_the_same_answers_and_a_dead_one_comes_back() -> None:
    launcher = ProcessLauncher()
    lines: list[str] = []
    with running(load_config(None, SETTINGS), launcher, lines.append) as it:
        expected = ask(it)
        assert {ask(it) for _ in range(20)} == {expected}
        (first, second), door = launcher.pids("router"), it.addresses.http
        for victim in (first, second):
            os.kill(victim, signal.SIGKILL)
            while not any("ready   again" in line for line in lines):
                it.watch()
            lines.clear()
            assert it.addresses.http == door
            assert _ask_until_both_know_their_workers(it) == expected


def _ask_until_both_know_their_workers(cluster: RunningCluster) -> str:
    """A router that has just started waits for its workers to announce themselves."""
    for _ in range(MOST_TRIES):
        try:
            return ask(cluster)
        except (urllib.error.URLError, ConnectionError):
            continue
    raise AssertionError("no router serves")
