"""Four hosts with a network between them: what the metrics call moved has crossed it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import httpx2
import pytest
import yaml

from engine.runners.arithmetic_runner import next_token
from tests.system import namespaces
from tests.system.clusters import a_request, answer
from tests.system.namespaces import INTERFACE, Host
from tests.system.shells import BIN, Shell, command_of, ray_head
from wire import inference_pb2_grpc as rpc

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(900)]
NUM_REQUESTS, AT_A_TIME = 50, 8
NUM_TOKENS = 512
VOCAB = 2048
POOLS = ("prefill", "prefill", "decode", "decode")
JOB = "tandem-network"
RAYS_OWN = (b"ray::IDLE", b"ray::DashboardAgent", b"ray::RuntimeEnvAgent", b"default_worker.py")
WORKER: dict[str, Any] = {
    "runner": "arithmetic",
    "width": 64,
    "num_layers": 4,  # 4 KiB a token
    "cache_bytes": 64 * 1024 * 1024,
    # All hosts are one machine: left alone, UCX would go from memory to memory.
    "ucx_env": {"UCX_TLS": "tcp", "UCX_NET_DEVICES": INTERFACE},
}


@dataclass(frozen=True)
class ARayOfHosts:
    """One raylet on each host, the first of them the head."""

    hosts: list[Host]
    environment: dict[str, str]

    def on(self, kind: str) -> list[Host]:
        return [host for host, pool in zip(self.hosts, POOLS, strict=True) if pool == kind]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.environment}
        ray = [str(BIN / "ray"), *arguments]
        return subprocess.run(ray, env=environment, check=True, capture_output=True, text=True)

    def processes(self) -> set[int]:
        return {process_id for host in self.hosts for process_id in host.process_ids()}

    def states(self, kind: str) -> set[str]:
        """Of all "actors" or "placement_groups" that there are or were."""
        url = f"{self.environment['RAY_API_SERVER_ADDRESS']}/api/v0/{kind}"
        token = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        answer = httpx2.get(url, headers=token, timeout=30).json()
        return {it["state"] for it in answer["data"]["result"]["result"]}


@contextmanager
def a_ray_of_hosts(folder: Path) -> Iterator[ARayOfHosts]:
    with namespaces.hosts(len(POOLS)) as hosts:
        head = hosts[0].address
        environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        roles = [(f"--address={head}:6379",)] * len(hosts)
        roles[0] = ("--head", "--port=6379", f"--dashboard-host={head}", f"--temp-dir={folder}")
        raylets: list[Shell] = []
        try:
            for host, pool, role in zip(hosts, POOLS, roles, strict=True):
                start = (str(BIN / "ray"), "start", "--block", "--disable-usage-stats", *role)
                own = (f"--node-ip-address={host.address}", f"--labels=pool={pool}")
                # Ray unpacks a job's files below its folder: two nodes would do it in each other's
                # way if they shared that.
                command = host.command_with_own(folder, *start, *own, "--num-cpus=1")
                raylets.append(ray_head(lambda it=command: it, environment))  # type: ignore[misc]
            url = f"http://{head}:8265"
            yield ARayOfHosts(hosts, {**environment, "RAY_API_SERVER_ADDRESS": url})
        finally:
            for raylet in reversed(raylets):
                raylet.end(signal.SIGTERM)


def settings(folder: Path) -> str:
    """One worker on each host, and a router beside each that prefills."""
    pool = {"replicas": 2, "placement": "one_per_node"}
    tree = {
        "worker": WORKER,
        "prefill": {**pool, "labels": {"pool": "prefill"}, "worker": {"stamp": 1}},
        "decode": {**pool, "labels": {"pool": "decode"}, "worker": {"stamp": 2}},
        "router": {"split": "always"},
        "num_routers": 2,
        "ray": {"routers": {"placement": "spread", "labels": {"pool": "prefill"}}},
    }
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(tree))
    return str(file)


async def ask(stub: rpc.InferenceStub, number: int) -> tuple[str, str]:
    """Whose answer is right, and who gave it."""
    prompt = [number, *((number * 7 + n * n) % VOCAB for n in range(NUM_TOKENS - 1))]
    tokens, last = await answer(stub, a_request(prompt, 6))
    for stamp in (1, 2, 2, 2, 2, 2):
        prompt.append(next_token(prompt, stamp, VOCAB))
    assert tokens == prompt[NUM_TOKENS:]
    return last.served_by.prefill_worker_id, last.served_by.decode_worker_id


async def ask_all(addresses: list[str], numbers: range) -> set[tuple[str, str]]:
    """Every router in turn, some requests at a time."""
    permits = asyncio.Semaphore(AT_A_TIME)

    async def one(stub: rpc.InferenceStub, number: int) -> tuple[str, str]:
        async with permits:
            return await ask(stub, number)

    async with AsyncExitStack() as stack:
        channels = [grpc.aio.insecure_channel(address) for address in addresses]
        stubs = [
            rpc.InferenceStub(await stack.enter_async_context(channel)) for channel in channels
        ]
        asked = (one(stubs[number % len(stubs)], number) for number in numbers)
        return set(await asyncio.gather(*asked))


def moved_bytes(addresses: list[str]) -> float:
    """As the metrics of all routers say."""
    texts = [httpx2.get(f"http://{address}/metrics", timeout=60).text for address in addresses]
    found = [re.search(r"^tandem_transfer_bytes_total (\S+)$", it, re.MULTILINE) for it in texts]
    return sum(float(it.group(1)) for it in found if it is not None)


def wait_until_gone(ray: ARayOfHosts, before: set[int], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while left := [it for it in map(command_of, ray.processes() - before) if not rays_own(it)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def rays_own(command: bytes) -> bool:
    """Workers without work, which a raylet keeps for the next job, and its helpers."""
    return not command or any(name in command for name in RAYS_OWN)


def test_the_kv_bytes_of_the_metrics_are_those_that_crossed_the_network(tmp_path: Path) -> None:
    if (reason := namespaces.why_not()) is not None:
        pytest.skip(reason)
    up = (sys.executable, "-m", "cluster", "up", "-c", settings(tmp_path))
    patience = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}})
    submit = ("job", "submit", "--submission-id", JOB, "--working-dir", ".")
    submit_up = [str(BIN / "ray"), *submit, "--runtime-env-json", patience, "--", *up]
    short = TemporaryDirectory(prefix="tandem-", dir="/tmp")  # Ray's socket paths must be short
    with short as folder, a_ray_of_hosts(Path(folder) / "ray") as ray:
        before = ray.processes()
        with Shell(submit_up, ray.environment) as job:
            ready = [
                job.line_with(rf"router-{n}\s+ready\s+grpc (\S+)\s+http (\S+)") for n in range(2)
            ]
            doors, scrapes = [it.group(1) for it in ready], [it.group(2) for it in ready]
            homes = {it.rpartition(":")[0] for it in doors}
            assert homes == {it.address for it in ray.on("prefill")}
            job.line_with("ready.*Ctrl-C stops")
            assert_moved_as_told(ray, doors, scrapes)
            ray.command("job", "stop", JOB)
            job.end(signal.SIGTERM)
        assert "draining" in ray.command("job", "logs", JOB).stdout
        wait_until_gone(ray, before)
        assert ray.states("actors") == {"DEAD"}
        assert ray.states("placement_groups") == {"REMOVED"}


def assert_moved_as_told(ray: ARayOfHosts, doors: list[str], scrapes: list[str]) -> None:
    """All prompts' blocks cross the network once: as the metrics say, and as the hosts count."""
    asyncio.run(ask_all(doors, range(1000, 1000 + 2 * AT_A_TIME)))  # every link is made
    moved = -moved_bytes(scrapes)
    seen = -sum(host.received_bytes() for host in ray.on("decode"))
    pairs = asyncio.run(ask_all(doors, range(NUM_REQUESTS)))
    seen += sum(host.received_bytes() for host in ray.on("decode"))
    moved += moved_bytes(scrapes)

    workers = {"prefill-0", "prefill-1", "decode-0", "decode-1"}
    assert {worker for pair in pairs for worker in pair} == workers
    assert moved == NUM_REQUESTS * NUM_TOKENS * 4096
    print(f"{moved / 1e6:.1f} MB in the metrics, {seen / moved:.4f} of that on the network")
    assert 1 <= seen / moved < 1.05
