"""What the chart starts, started here: every command, environment, probe and hook, as rendered."""

from __future__ import annotations

import copy
import json
import shlex
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cluster.bundled import BUNDLED_MODEL
from engine.kernels.build import default_cache
from router.access.keys import generate_key
from tests.certificates import Authority
from tests.helm.containers import Pod, free_ports, has_ipv6, pod_of, router_ports, started
from tests.helm.documents import PodTemplate, ci_values, of_kind, pods
from tests.helm.engines import CHART, NAMESPACE, RELEASE, Helm3, kubeconfig, values_file
from tests.helm.fake_api.server import fake_api
from tests.helm.gates import rendered

ROUTER, TEST = "Deployment/rel-tandem-router", "Pod/rel-tandem-test"
PREFILL, DECODE = "Deployment/rel-tandem-prefill", "Deployment/rel-tandem-decode"
DRAIN_S = 100.0
SETTINGS = {"ucx_env": {"UCX_NET_DEVICES": "lo"}, "cache_bytes": 64 * 1024 * 1024, "threads": 1}


class Site:
    """The pods of one set of values, on loopback addresses of their own; services are at `home`."""

    def __init__(
        self, helm: Helm3, values: dict[str, Any], folder: Path, home: str = "127.0.0.1"
    ) -> None:
        values = copy.deepcopy(values)
        ports = router_ports(values)
        values["worker"]["settings"] = SETTINGS
        values.setdefault("drain", {})["endpointDelaySeconds"] = 0
        self.folder, self.values = folder, values
        documents = rendered(helm, CHART, values)
        self._pods = list(pods(documents))
        self.moved = {
            "/app/models/tiny-python": str(BUNDLED_MODEL),
            "/etc/tandem/both_pools.py": str(folder / "both_pools.py"),
            "/etc/tandem/": f"{folder}/",
            "/cache/tandem": str(default_cache()),  # compiled kernels, as other tests have them
            f"rel-tandem-fleet.{NAMESPACE}.svc.cluster.local": home,
            f"rel-tandem.{NAMESPACE}.svc:80": f"{home}:{ports['http']}",
            f"rel-tandem-grpc.{NAMESPACE}.svc:8001": f"{home}:{ports['grpc']}",
        }
        for config in of_kind(documents, "ConfigMap"):
            for name, text in config["data"].items():
                for before, after in self.moved.items():
                    text = text.replace(before, after)
                (folder / name).write_text(text)

    def template(self, owner: str) -> PodTemplate:
        return pod_of(self._pods, owner)

    def pod(self, owner: str, address: str = "127.0.0.1") -> Pod:
        log = self.folder / f"{owner.replace('/', '-')}.log"
        return Pod(self.template(owner), address, self.moved, log)


def test_what_the_chart_starts_serves_over_both_pools_and_drains(
    helm3: Helm3, tmp_path: Path
) -> None:
    site = Site(helm3, ci_values()["cpu"], tmp_path)
    router, test = site.pod(ROUTER), site.pod(TEST)
    workers = [site.pod(PREFILL, "127.0.0.2"), site.pod(DECODE, "127.0.0.3")]
    with started(router, *workers):
        router.await_probe("startupProbe")
        for worker in workers:
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                worker.await_probe(kind)
        router.await_probe("readinessProbe")
        assert router.probe("livenessProbe")
        assert "choices" in _follow_notes(helm3, site)
        with started(test):
            assert test.process.wait(timeout=200) == 0, test.log.read_text()
        assert "a request used both pools" in test.log.read_text()
        assert router.pre_stop() == 0
        assert router.terminate(DRAIN_S) == 0
        assert [worker.terminate(DRAIN_S) for worker in workers] == [0, 0]


def _follow_notes(helm: Helm3, site: Site) -> dict[str, Any]:
    """What the request in NOTES.txt gets, without its port-forward."""
    config = site.folder / "kubeconfig"
    with fake_api() as (url, _), values_file(site.values) as file:
        config.write_text(kubeconfig(url))
        install = ["install", RELEASE, str(CHART), "-n", NAMESPACE, "-f", file, "--dry-run=client"]
        notes = helm.run(*install, env={"KUBECONFIG": str(config)}).partition("NOTES:")[2]
    (line,) = [line for line in notes.splitlines() if line.strip().startswith("curl ")]
    _, url, _, header, _, body = shlex.split(line)
    url = url.replace("127.0.0.1:8000", f"127.0.0.1:{site.values['router']['ports']['http']}")
    name, _, value = header.partition(": ")
    request = urllib.request.Request(url, body.encode(), {name: value})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


@pytest.mark.long
def test_where_pods_have_ipv6_alone_it_serves_as_well(helm3: Helm3, tmp_path: Path) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    decode = dict(zip(("port", "metricsPort"), free_ports(2), strict=True))
    values = {**ci_values()["cpu"], "pools": {"decode": decode}}
    site = Site(helm3, values, tmp_path, "[::1]")
    router, test = site.pod(ROUTER, "::1"), site.pod(TEST, "::1")
    workers = [site.pod(PREFILL, "::1"), site.pod(DECODE, "::1")]
    with started(router, *workers):
        router.await_probe("startupProbe")
        for worker in workers:
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                worker.await_probe(kind)
        router.await_probe("readinessProbe")
        with started(test):
            assert test.process.wait(timeout=200) == 0, test.log.read_text()
        assert router.terminate(DRAIN_S) == 0
        assert [worker.terminate(DRAIN_S) for worker in workers] == [0, 0]


def test_a_router_without_workers_lives_and_is_not_ready(helm3: Helm3, tmp_path: Path) -> None:
    site = Site(helm3, ci_values()["cpu"], tmp_path)
    router, test = site.pod(ROUTER), site.pod(TEST)
    with started(router):
        router.await_probe("startupProbe")
        assert router.probe("livenessProbe")
        assert not router.probe("readinessProbe")
        assert router.terminate(DRAIN_S) == 0
    with started(test):
        assert test.process.wait(timeout=200) == 1  # nobody answers, and the test says so


def test_with_certificates_and_keys_it_serves_those_who_have_them(
    helm3: Helm3, tmp_path: Path
) -> None:
    secret = {"enabled": True, "secretName": "given"}
    values: dict[str, Any] = {
        **ci_values()["cpu"],
        "tls": {"door": {**secret, "clientAuth": True}, "internal": secret},
        "apiKeys": {"secretName": "given"},
        "test": {"keySecret": {"name": "given"}, "clientSecret": "given"},
    }
    site = Site(helm3, values, tmp_path)
    key, hashed = generate_key()
    _write_secrets(tmp_path, hashed)
    site.moved["given/key"] = key
    router, test = site.pod(ROUTER), site.pod(TEST)
    workers = [site.pod(PREFILL, "127.0.0.2"), site.pod(DECODE, "127.0.0.3")]
    with started(router, *workers):
        router.await_probe("startupProbe")
        router.await_probe("readinessProbe")
        with started(test):
            assert test.process.wait(timeout=200) == 0, test.log.read_text()
        assert router.terminate(DRAIN_S) == 0
        assert [worker.terminate(DRAIN_S) for worker in workers] == [0, 0]


def _write_secrets(folder: Path, hashed: str) -> None:
    """As the kubelet would mount them."""
    authority = Authority(folder / "authority")
    names = {"door": ["127.0.0.1"], "internal": ["tandem-internal"], "client": ["a-client"]}
    for kind, subjects in names.items():
        cert, key = authority.sign(kind, *subjects)
        mounted = folder / "tls" / kind
        mounted.mkdir(parents=True)
        (mounted / "tls.crt").write_bytes(Path(cert).read_bytes())
        (mounted / "tls.key").write_bytes(Path(key).read_bytes())
        (mounted / "ca.crt").write_bytes(authority.file.read_bytes())
    (folder / "keys").mkdir()
    (folder / "keys" / "keys.yaml").write_text(f"tester: {hashed}\n")


def test_a_ray_pod_waits_before_it_stops_as_long_as_a_worker_runs(
    helm3: Helm3, tmp_path: Path
) -> None:
    documents = rendered(helm3, CHART, {})
    pod = pod_of(list(pods(documents)), "RayCluster/rel-tandem-ray decode")
    (container,) = pod.containers
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    assert Pod(pod, "", {}, tmp_path / "log").run(command) == 0  # no worker here: at once

    waiting = Pod(pod, "", {}, tmp_path / "log")
    container["command"] = ["bash", "-c", "exec -a ray::WorkerActor.start sleep 600"]
    with started(worker := Pod(pod, "", {}, tmp_path / "worker.log")):
        worker.await_that(lambda: b"WorkerActor" in _command_line(worker), "has no such name")
        container["command"] = command
        with started(waiting):
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.process.wait(timeout=2)
            assert worker.terminate(60) == -signal.SIGTERM
            assert waiting.process.wait(timeout=60) == 0


def _command_line(pod: Pod) -> bytes:
    return Path(f"/proc/{pod.process.pid}/cmdline").read_bytes()
