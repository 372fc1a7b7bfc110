"""The two Helms that the chart must work with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
HELM3 = Path(sys.executable).with_name("helm")
RELEASE, NAMESPACE = "rel", "serving"
KUBE_VERSIONS = ("1.28", "1.31", "1.34", "1.37")
LIMIT_S = 250


class HelmFailed(Exception):
    """What Helm said."""


class Engine(Protocol):
    def lint(self, chart: Path, values: dict[str, Any], kube_version: str) -> list[str]: ...

    def render(self, chart: Path, values: dict[str, Any]) -> str: ...


class Helm3:
    """The `helm` command."""

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        """What it printed. Raises HelmFailed."""
        ended = subprocess.run(
            [HELM3, *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            env={**os.environ, **(env or {})},
        )
        if ended.returncode:
            raise HelmFailed(ended.stderr + ended.stdout)
        return ended.stdout

    def lint(self, chart: Path, values: dict[str, Any], kube_version: str) -> list[str]:
        try:
            with values_file(values) as file:
                self.run(
                    "lint", "--strict", str(chart), "-f", file, f"--kube-version=v{kube_version}.0"
                )
        except HelmFailed as error:
            return [str(error)]
        return []

    def render(self, chart: Path, values: dict[str, Any]) -> str:
        with values_file(values) as file:
            return self.run("template", RELEASE, str(chart), "-n", NAMESPACE, "-f", file)


class Helm4:
    """The engine of Helm 4, in a child process; see helm4.py."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.helm.helm4"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, verb: str, *arguments: Any) -> Any:
        """Raises HelmFailed."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps([verb, arguments]) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise HelmFailed(f"Helm 4 ended with status {self._child.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise HelmFailed(reply["error"])
        return reply["answer"]

    def lint(self, chart: Path, values: dict[str, Any], kube_version: str) -> list[str]:
        found: list[str] = self.call("lint", str(chart), values, f"v{kube_version}.0")
        return found

    def render(self, chart: Path, values: dict[str, Any]) -> str:
        text: str = self.call("render", str(chart), values, RELEASE, NAMESPACE)
        return text

    def close(self) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait(timeout=60)
        self._child.stdout.close()


def kubeconfig(server: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": server}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "current-context": "fake",
        }
    )


class values_file:  # used like a function
    """The values in a file that lives as long as the block."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._file = tempfile.NamedTemporaryFile("w", suffix=".yaml")  # noqa: SIM115
        json.dump(values, self._file)
        self._file.flush()

    def __enter__(self) -> str:
        return self._file.name

    def __exit__(self, *error: object) -> None:
        self._file.close()
