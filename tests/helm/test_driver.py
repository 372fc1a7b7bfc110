"""The driver, as rendered, at a real Ray: a job that runs, serves, and has drained when it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.containers import free_ports, started
from tests.helm.documents import PodTemplate
from tests.helm.engines import NAMESPACE, Helm3
from tests.helm.test_processes import DRAIN_S, ROUTER, TEST, Site
from tests.system.shells import ATTEMPTS, command_of

DRIVER = "Deployment/rel-tandem-driver"
TOKEN = "a-token-of-at-least-some-length"
START_S = 200.0
"""Ray is slow where other things run."""


@pytest.fixture
def jobs_url() -> Iterator[str]:
    """A head that has what the nodes of both pools have, asks for a token, and leaves nothing."""
    names = (
        "port",
        "dashboard-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "ray-client-server-port",
        "metrics-export-port",
    )
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    binary = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        arguments = [f"{binary}/ray", "start", "--head", "--block", "--num-cpus=2"]
        arguments += ["--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
        arguments += ['--resources={"tandem-prefill": 1, "tandem-decode": 1}']
        arguments += [f"--{name}={port}" for name, port in ports.items()]
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        path = f"{binary}:{os.environ['PATH']}"
        environment = {**os.environ, **token, "PATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
        url = f"http://127.0.0.1:{ports['dashboard-port']}"
        head = _start_head(arguments, environment, Path(folder, "log"), url)
        try:
            yield url
        finally:
            head.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                head.wait(timeout=30)
            _kill_session(head.pid)


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_the_driver_runs_the_cluster_on_ray_and_stops_it(
    helm3: Helm3, tmp_path: Path, jobs_url: str
) -> None:
    # Here both workers are on one node: they cannot have the same port.
    (port,) = free_ports(1)
    decode = {"role": "decode", "metricsPort": port}
    site = Site(helm3, {"router": {"replicas": 1}, "pools": {"decode": decode}}, tmp_path)
    head = f"http://rel-tandem-ray-head-svc.{NAMESPACE}.svc.cluster.local:8265"
    site.moved |= {head: jobs_url, "/tmp/driver": str(tmp_path / "state")}
    site.moved["rel-tandem-ray/auth_token"] = TOKEN
    router, driver, test = site.pod(ROUTER), site.pod(DRIVER), site.pod(TEST)
    with started(router, driver):
        driver.await_probe("readinessProbe")
        assert driver.probe("livenessProbe")
        router.await_probe("readinessProbe")
        with started(test):
            assert test.process.wait(timeout=200) == 0, test.log.read_text()
        for owner in ("RayCluster/rel-tandem-ray head", "RayCluster/rel-tandem-ray decode"):
            assert _is_waited_for(site.template(owner)), f"{owner} would not wait for its drain"
        ((job, before),) = _jobs(jobs_url).items()
        assert before == "RUNNING"
        # As `helm upgrade` changes the file that is mounted into the head.
        file = tmp_path / "cluster.yaml"
        tree = yaml.safe_load(file.read_text())
        for replicas, line in ((0, "decode-0   left"), (1, "decode-0   ready")):
            num_told = _log(jobs_url, job).count(line)
            tree["pools"]["decode"]["replicas"] = replicas
            file.write_text(yaml.safe_dump(tree))
            _await_line(jobs_url, job, line, num_told + 1)
        with started(test):
            assert test.process.wait(timeout=200) == 0, test.log.read_text()
        assert _jobs(jobs_url) == {job: "RUNNING"}, "the same job goes on"
        assert driver.terminate(DRAIN_S) == 0, driver.log.read_text()
        assert not driver.probe("readinessProbe")
        router.await_probe("readinessProbe", False)  # its workers have left
        assert _jobs(jobs_url) == {job: "STOPPED"}
        assert router.terminate(DRAIN_S) == 0


def _is_waited_for(pod: PodTemplate) -> bool:
    """Whether some process has the name that this pod's preStop waits for."""
    pattern = pod.containers[0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    names = (command_of(int(path.name)) for path in Path("/proc").glob("[0-9]*"))
    return any(re.match(pattern.encode(), name) for name in names)


def _jobs(url: str) -> dict[str, str]:
    return {job["submission_id"]: job["status"] for job in _ask(url, "")}


def _log(url: str, job: str) -> str:
    return str(_ask(url, f"{job}/logs")["logs"])


def _await_line(url: str, job: str, line: str, count: int) -> None:
    deadline = time.monotonic() + START_S
    while _log(url, job).count(line) < count:
        assert time.monotonic() < deadline, _log(url, job)
        time.sleep(0.5)


def _ask(url: str, path: str) -> Any:
    request = urllib.request.Request(f"{url}/api/jobs/{path}")
    request.add_header("Authorization", f"Bearer {TOKEN}")
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def _start_head(
    arguments: list[str], environment: dict[str, str], log: Path, url: str
) -> subprocess.Popen[bytes]:
    """Anew when Ray's own processes did not find each other in the 30 s that it gives them."""
    for _ in range(ATTEMPTS):
        with log.open("ab") as file:
            head = subprocess.Popen(
                arguments, env=environment, stdout=file, stderr=file, start_new_session=True
            )
        if _takes_jobs(url, head):
            return head
        _kill_session(head.pid)
        head.wait()
    raise AssertionError(log.read_text())


def _takes_jobs(url: str, head: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_S
    while head.poll() is None and time.monotonic() < deadline:
        if _answers(url):
            return True
        time.sleep(0.5)
    return False


def _answers(url: str) -> bool:
    try:
        _jobs(url)
    except OSError:
        return False
    return True


def _kill_session(session: int) -> None:
    """Whoever is left of the head's own session."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[3]) == session:
                os.kill(int(path.parent.name), signal.SIGKILL)
        except (OSError, ValueError):
            continue
