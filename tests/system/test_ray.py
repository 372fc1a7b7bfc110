"""On real Ray: a light one that `tandem up` starts, and a head that jobs are submitted to."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx2
import pytest

from cluster.config import load_config
from cluster.errors import StartFailed
from cluster.ray_launcher import RayLauncher
from cluster.running import running
from tests.system.clusters import ARITHMETIC, a_client, a_request, answer

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]
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


@contextmanager
def a_ray_head(folder: Path) -> Iterator[dict[str, str]]:
    """A Ray head with a job server; yields the environment by which it is reached."""
    token = secrets.token_hex(16)
    dashboard = a_free_port()
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    head = Shell(
        [
            *(str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", "--num-cpus=4", "--include-dashboard=true"),
            *(f"--port={a_free_port()}", f"--dashboard-port={dashboard}"),
            f"--temp-dir={folder}",
        ],
        environment,
    )
    try:
        head.line_with("Ray runtime started")
        yield {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        head.end(signal.SIGTERM)


async def ask(address: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        from wire import inference_pb2_grpc as rpc

        _, last = await answer(rpc.InferenceStub(channel), a_request([5, 6, 7], 8))
    assert last.served_by.prefill_worker_id == "prefill-0"
    assert last.served_by.decode_worker_id == "decode-0"
    return int(last.usage.completion_tokens)


def test_a_job_submitted_to_a_ray_head_serves_and_stops(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = Path("/tmp") / f"tandem-{secrets.token_hex(4)}"  # Ray's socket paths must be short
    with a_ray_head(folder) as environment:
        grpc_port = a_free_port()
        ray = str(BIN / "ray")
        job = Shell(
            [
                *(ray, "job", "submit", "--submission-id", "tandem-test", "--working-dir", "."),
                *("--", sys.executable, "-m", "cluster", "up", "--grpc-port", str(grpc_port)),
                *("--set", "router.host=127.0.0.1", "--set", "worker.host=127.0.0.1"),
            ],
            environment,
        )
        try:
            job.line_with("ready.*Ctrl-C stops")
            assert asyncio.run(ask(f"127.0.0.1:{grpc_port}")) == 8
            stop = [ray, "job", "stop", "tandem-test"]
            subprocess.run(stop, env={**os.environ, **environment}, check=True, capture_output=True)
        finally:
            job.end(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError):
            asyncio.run(ask(f"127.0.0.1:{grpc_port}"))


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_serves_and_leaves_no_process_behind(number: signal.Signals) -> None:
    up = Shell([str(BIN / "tandem"), "up", "--set", "worker.runner=arithmetic"], {})
    http = up.line_with(r"router\s+ready.*http (\S+)").group(1)
    up.line_with("ready.*Ctrl-C stops")
    body = {"model": "tiny-python", "prompt": [1, 2, 3], "max_tokens": 4}
    response = httpx2.post(f"http://{http}/v1/completions", json=body)
    assert response.json()["usage"]["completion_tokens"] == 4
    descendants = children_of(up.process.pid)
    assert descendants
    assert up.end(number) == 0
    assert "".join(up.seen).rstrip().endswith("stopped")
    assert not [child for child in descendants if Path(f"/proc/{child}").exists()]


async def test_what_the_cluster_has_no_room_for_is_named() -> None:
    settings = {**ARITHMETIC, "prefill.num_gpus": 1, "ray.place_timeout_s": 1}
    config = load_config(None, settings)
    with (
        pytest.raises(StartFailed, match=r"prefill-0 wants .*'GPU': 1.*Add nodes"),
        running(config, RayLauncher(config), lambda line: None) as cluster,
    ):
        async with a_client(cluster):
            raise AssertionError("it started")
