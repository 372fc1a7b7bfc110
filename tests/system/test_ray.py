"""On real Ray: a light one that `tandem up` starts, and a head that jobs are submitted to."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import signal
import sys
import time
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
from tests.system.clusters import ARITHMETIC, a_client, a_request
from tests.system.shells import (
    BIN,
    LOOPBACK,
    Shell,
    a_free_port,
    children_of,
    listens_at,
    ray_head,
    wait_until_ended,
)
from wire import inference_pb2_grpc as rpc

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
JOB = "tandem-test"


@contextmanager
def a_ray_head(folder: Path) -> Iterator[dict[str, str]]:
    """A Ray head with a job server; yields the environment by which it is reached."""
    token = secrets.token_hex(16)
    dashboard = a_free_port()
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    head = ray_head(
        lambda: [
            *(str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", "--num-cpus=4", "--include-dashboard=true"),
            *(f"--port={a_free_port()}", f"--dashboard-port={dashboard}"),
            f"--temp-dir={folder}",
        ],
        environment,
    )
    try:
        yield {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        head.end(signal.SIGTERM)
        shutil.rmtree(folder, ignore_errors=True)


async def ask(address: str, environment: dict[str, str]) -> int:
    """How many tokens come although the job is stopped after the first."""
    tokens = 0
    async with grpc.aio.insecure_channel(address) as channel:
        async for message in rpc.InferenceStub(channel).Generate(a_request([5, 6, 7], 400)):
            if tokens == 0:
                await asyncio.to_thread(stop_job, environment)
            tokens += len(message.token_ids)
    assert message.served_by.prefill_worker_id == "prefill-0"
    assert message.served_by.decode_worker_id == "decode-0"
    return tokens


def wait_until_stopped(environment: dict[str, str], timeout_s: float = 60) -> None:
    """By itself, and not because Ray lost its patience."""
    url = f"{environment['RAY_API_SERVER_ADDRESS']}/api/jobs/{JOB}"
    token = {"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}
    deadline = time.monotonic() + timeout_s
    while httpx2.get(url, headers=token, timeout=30).json()["status"] != "STOPPED":
        assert time.monotonic() < deadline, "the job runs on"
        time.sleep(0.1)
    logs = httpx2.get(f"{url}/logs", headers=token, timeout=30).json()["logs"]
    assert logs.rstrip().endswith("stopped"), logs


def stop_job(environment: dict[str, str]) -> None:
    url = f"{environment['RAY_API_SERVER_ADDRESS']}/api/jobs/{JOB}/stop"
    token = {"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}
    assert httpx2.post(url, headers=token, timeout=30).json() == {"stopped": True}


@pytest.mark.long
def test_a_job_submitted_to_a_ray_head_serves_drains_and_stops(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = Path("/tmp") / f"tandem-{secrets.token_hex(4)}"  # Ray's socket paths must be short
    with a_ray_head(folder) as environment:
        grpc_port = a_free_port()
        patience = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "40"}})
        job = Shell(
            [
                *(str(BIN / "ray"), "job", "submit", "--submission-id", JOB, "--working-dir", "."),
                *("--runtime-env-json", patience),
                *("--", sys.executable, "-m", "cluster", "up", "--grpc-port", str(grpc_port)),
                *("--set", "router.host=127.0.0.1", "--set", "worker.host=127.0.0.1"),
            ],
            environment,
        )
        try:
            job.line_with("ready.*Ctrl-C stops")
            assert not [line for line in job.seen if "warning" in line and "Ray kills" in line]
            assert asyncio.run(ask(f"127.0.0.1:{grpc_port}", environment)) == 400
            wait_until_stopped(environment)
        finally:
            job.end(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError):
            asyncio.run(ask(f"127.0.0.1:{grpc_port}", environment))


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_up_serves_and_leaves_no_process_behind(number: signal.Signals) -> None:
    with Shell([str(BIN / "tandem"), "up", "--set", "worker.runner=arithmetic"], {}) as up:
        http = up.line_with(r"router-0\s+ready.*http (\S+)").group(1)
        up.line_with("ready.*Ctrl-C stops")
        body = {"model": "tiny-python", "prompt": [1, 2, 3], "max_tokens": 4}
        response = httpx2.post(f"http://{http}/v1/completions", json=body, timeout=60)
        assert response.json()["usage"]["completion_tokens"] == 4
        assert http.startswith("127.0.0.1:")
        descendants = children_of(up.process.pid)
        assert descendants
        assert listens_at({up.process.pid, *descendants}) <= LOOPBACK
        assert up.end(number) == 0
    assert "".join(up.seen).rstrip().endswith("stopped")
    wait_until_ended(descendants)


async def test_what_the_cluster_has_no_room_for_is_named() -> None:
    settings = {**ARITHMETIC, "prefill.num_gpus": 1, "ray.place_timeout_s": 1}
    config = load_config(None, settings)
    with (
        pytest.raises(StartFailed, match=r"prefill-0: no resources .*'GPU': 1.*Add nodes"),
        running(config, RayLauncher(config), lambda line: None) as cluster,
    ):
        async with a_client(cluster):
            raise AssertionError("it started")
