"""Rendered containers as processes here: their command, environment, probes and hooks."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.address import join_address
from tests.helm.documents import PodTemplate
from tests.helm.engines import ROOT
from tests.system.shells import a_free_port

START_S = 200.0
STEP_S = 0.2


class Pod:
    """The first container of a pod, at an address of its own, which stands in for the pod's.

    `moved` says what lies elsewhere on this machine: paths of volumes and images, and names that
    the cluster's DNS would know.
    """

    def __init__(self, pod: PodTemplate, address: str, moved: Mapping[str, str], log: Path) -> None:
        self._container = pod.containers[0]
        self._fields = {"metadata.name": _name(pod), "status.podIP": address}
        self._address = address
        self._moved = moved
        self.log = log

    def start(self) -> None:
        command = [*self._container["command"], *self._container.get("args", [])]
        environment = self.environment()
        expanded = [_expand(self._move(word), environment) for word in command]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._local(expanded), env=environment, cwd=ROOT, stdout=log, stderr=log
            )

    def environment(self) -> dict[str, str]:
        """What the container is given, and what its image has."""
        found = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        for variable in self._container["env"]:
            if "value" in variable:
                found[variable["name"]] = self._move(variable["value"])
            elif "fieldRef" in variable["valueFrom"]:
                path = variable["valueFrom"]["fieldRef"]["fieldPath"]
                found[variable["name"]] = self._fields[path]
            else:
                secret = variable["valueFrom"]["secretKeyRef"]
                found[variable["name"]] = self._moved[f"{secret['name']}/{secret['key']}"]
        found["PYTHONPATH"] = str(ROOT)
        return found

    def probe(self, kind: str) -> bool:
        """One try of a probe, as the kubelet makes it. TLS is not checked by it either."""
        probe = self._container[kind]
        if "exec" in probe:
            return self.run(probe["exec"]["command"]) == 0
        way = probe.get("httpGet") or probe["tcpSocket"]
        port = self._port(way["port"])
        try:
            if "tcpSocket" in probe:
                socket.create_connection((self._address, port), timeout=30).close()
                return True
            scheme = way.get("scheme", "HTTP").lower()
            url = f"{scheme}://{join_address(self._address, port)}{way['path']}"
            context = _trusting() if scheme == "https" else None
            with urllib.request.urlopen(url, timeout=30, context=context) as response:
                return 200 <= int(response.status) < 400
        except (OSError, urllib.error.HTTPError):
            return False

    def run(self, command: list[str]) -> int:
        """A command in the container; its exit status."""
        words = self._local([self._move(word) for word in command])
        ended = subprocess.run(
            words, env=self.environment(), timeout=START_S, check=False, capture_output=True
        )
        return ended.returncode

    def pre_stop(self) -> int:
        return self.run(self._container["lifecycle"]["preStop"]["exec"]["command"])

    def await_probe(self, kind: str, wanted: bool = True) -> None:
        self.await_that(lambda: self.probe(kind) is wanted, f"{kind} is not {wanted}")

    def await_that(self, true: Callable[[], bool], else_say: str) -> None:
        deadline = time.monotonic() + START_S
        while not true():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"{else_say}: {self.log.read_text()}"
            time.sleep(STEP_S)

    def terminate(self, timeout_s: float) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=timeout_s)

    def _port(self, port: str | int) -> int:
        named = {it["name"]: it["containerPort"] for it in self._container.get("ports", [])}
        return int(named.get(str(port), port))

    def _move(self, text: str) -> str:
        for before, after in self._moved.items():
            text = text.replace(before, after)
        return text

    def _local(self, command: list[str]) -> list[str]:
        return [sys.executable if command[0] == "python" else command[0], *command[1:]]


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _name(pod: PodTemplate) -> str:
    return pod.owner.replace("/", "-").replace(" ", "-").lower()


def _expand(word: str, environment: Mapping[str, str]) -> str:
    """$(NAME), as the kubelet expands it."""
    return re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], word)


@contextmanager
def started(*pods: Pod) -> Iterator[None]:
    """Killed at the end, where they still run."""
    try:
        for pod in pods:
            pod.start()
        yield
    finally:
        for pod in pods:
            if hasattr(pod, "process") and pod.process.poll() is None:
                pod.process.kill()
                pod.process.wait()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probing:
            probing.bind(("::1", 0))
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    return [a_free_port() for _ in range(count)]


def pod_of(pods: list[PodTemplate], owner: str) -> PodTemplate:
    (found,) = [pod for pod in pods if pod.owner == owner]
    return found


def router_ports(values: dict[str, Any]) -> dict[str, int]:
    ports = free_ports(6)
    values.setdefault("router", {})["ports"] = dict(
        zip(("http", "grpc", "fleet", "admin"), ports, strict=False)
    )
    values.setdefault("worker", {}).update(port=ports[4], metricsPort=ports[5])
    return dict(values["router"]["ports"])
