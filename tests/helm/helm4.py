"""Helm 4 in a process of its own, for its Go runtime's sake: lines of JSON in and out."""

from __future__ import annotations

import json
import sys
from typing import Any

import helm_python as helm

from tests.helm.engines import kubeconfig


def lint(chart: str, values: dict[str, Any], kube_version: str) -> list[str]:
    report = helm.lint(chart, values, strict=True, kube_version=kube_version)
    found = [message["error"] for message in report["messages"] if message["severity"] > 1]
    return [*found, *report["errors"]]


def render(chart: str, values: dict[str, Any], name: str, namespace: str) -> str:
    loaded = helm.Chart.load(chart)
    loaded.validate_schema(values)
    rendered = loaded.render(values, name=name, namespace=namespace, is_install=True)
    return "\n---\n".join(text for path, text in rendered.items() if path.endswith(".yaml"))


class Cluster:
    """The verbs of one release, at one API server; releases are remembered in this process."""

    def __init__(self, server: str, namespace: str) -> None:
        content = kubeconfig(server)
        self._config = helm.Config(
            kubeconfig_content=content,
            namespace=namespace,
            storage_driver="memory",
            burst_limit=1000,
            qps=1000,
        )
        self._namespace = namespace

    def install(self, chart: str, name: str, values: dict[str, Any]) -> Any:
        return self._config.install(
            chart,
            name,
            values,
            namespace=self._namespace,
            create_namespace=True,
            wait="watcher",
            timeout=200,
        )["name"]

    def upgrade(self, chart: str, name: str, values: dict[str, Any]) -> Any:
        return self._config.upgrade(
            chart, name, values, namespace=self._namespace, wait="watcher", timeout=200
        )["name"]

    def test(self, name: str) -> None:
        self._config.test(name, timeout=200)

    def rollback(self, name: str, version: int) -> None:
        self._config.rollback(name, version=version, wait="watcher", timeout=200)

    def history(self, name: str) -> list[str]:
        return [f"{it['revision']} {it['status']}" for it in self._config.history(name)]

    def uninstall(self, name: str) -> None:
        self._config.uninstall(name, wait="watcher", timeout=200)


def main() -> None:
    clusters: dict[str, Cluster] = {}
    for line in sys.stdin:
        verb, arguments = json.loads(line)
        try:
            if verb == "cluster":
                clusters[verb] = Cluster(*arguments)
                answer: Any = None
            elif verb.startswith("cluster."):
                answer = getattr(clusters["cluster"], verb.removeprefix("cluster."))(*arguments)
            else:
                answer = {"lint": lint, "render": render}[verb](*arguments)
            reply = {"answer": answer}
        except helm.HelmError as error:
            reply = {"error": str(error)}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
