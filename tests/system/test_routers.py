"""Several routers behind the same ports, and routers that die: real processes."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request

import pytest

from cluster.config import load_config
from cluster.errors import StartFailed
from cluster.process_launcher import ProcessLauncher
from cluster.running import RunningCluster, running
from runtime.address import split_address
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


def test_two_clusters_do_not_share_their_ports() -> None:
    with running(load_config(None, SETTINGS), ProcessLauncher(), print) as first:
        ports = {
            f"router.{door}_port": split_address(getattr(first.addresses, door))[1]
            for door in ("http", "grpc")
        }
        for taken in ports.items():
            second = load_config(None, dict([*SETTINGS.items(), taken]))
            with (
                pytest.raises(StartFailed, match=f"router-0: .*{taken[1]}: the port is in use"),
                running(second, ProcessLauncher(), print),
            ):
                raise AssertionError("two clusters at one port")


def test_everything_runs_at_ipv6_addresses() -> None:
    hosts = {"router.host": "[::1]", "worker.host": "::1", "worker.ucx_env": {}}
    with running(load_config(None, {**SETTINGS, **hosts}), ProcessLauncher(), print) as it:
        assert it.addresses.http.startswith("[::1]:")
        assert all(address.startswith("[::1]:") for address in it.worker_addresses)
        assert ask(it) == ask(it)


def _ask_until_both_know_their_workers(cluster: RunningCluster) -> str:
    """A router that has just started waits for its workers to announce themselves."""
    for _ in range(MOST_TRIES):
        try:
            return ask(cluster)
        except (urllib.error.URLError, ConnectionError):
            continue
    raise AssertionError("no router serves")
