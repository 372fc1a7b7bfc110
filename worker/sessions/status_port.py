"""A worker's own HTTP port, for monitoring: /metrics, /health and /ping."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from runtime.handoffs import HandoffCounters
from runtime.http.asgi import Receive, Scope, Send
from runtime.http.server import HttpServer
from runtime.link_families import handoff_families, link_families
from runtime.worker_families import WorkerFamilies
from wire.identity import WorkerRef
from wire.messages import WorkerCard
from wire.reports import LinkReport, Report

METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class WorkerPhase(enum.Enum):
    """The phases of a worker's life; only a ready worker gets work."""

    LOADING = "loading"
    JOINING = "no router has taken it yet"
    READY = "ready"
    DRAINING = "draining"


class Watched(Protocol):
    """What the port reads of a worker; see worker.host.Worker."""

    @property
    def phase(self) -> WorkerPhase: ...

    @property
    def known(self) -> WorkerCard | None:
        """The worker's card; None while it loads, when nothing else is read."""
        ...

    @property
    def refusal(self) -> str | None:
        """Why a router does not take the worker; None where none refuses."""
        ...

    @property
    def last_report(self) -> Report | None: ...

    @property
    def measured_links(self) -> Iterable[tuple[WorkerRef, LinkReport]]: ...

    @property
    def arrived(self) -> HandoffCounters: ...


class StatusPort:
    """Answers on the event loop, from the step loop's last report, so that no step waits for it."""

    def __init__(self, worker: Watched) -> None:
        self._worker = worker
        self._registry = CollectorRegistry()
        self._registry.register(_WorkerCollector(worker))
        ProcessCollector(registry=self._registry)
        self._server = HttpServer(self)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port that was bound. Raises PortTaken."""
        return await self._server.start(host, port, "metrics_port")

    async def stop(self) -> None:
        await self._server.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pages: dict[str, Callable[[], tuple[int, bytes, bytes]]] = {
            "/metrics": lambda: (200, METRICS_TYPE, generate_latest(self._registry)),
            "/health": self._health,
            "/ping": lambda: (200, b"text/plain", b""),
        }
        page = pages.get(scope["path"])
        if page is None or scope["method"] not in ("GET", "HEAD"):
            found = f"{', '.join(pages)} are here, to GET".encode()
            status, kind, body = (404 if page is None else 405), b"text/plain", found
        else:
            status, kind, body = page()
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": body})

    def _health(self) -> tuple[int, bytes, bytes]:
        phase = self._worker.phase
        health = {"status": phase.value}
        if phase is WorkerPhase.JOINING and self._worker.refusal is not None:
            health["reason"] = self._worker.refusal
        body = msgspec.json.encode(health)
        return (200 if phase is WorkerPhase.READY else 503), b"application/json", body


class _WorkerCollector(Collector):
    """Called at every scrape; the families are empty while the worker loads."""

    def __init__(self, worker: Watched) -> None:
        self._worker = worker

    def collect(self) -> Iterable[Metric]:
        own, card = WorkerFamilies(), self._worker.known
        if card is not None:
            own.add(card, self._worker.last_report)
        yield from own.families
        yield from link_families(() if card is None else self._worker.measured_links)
        yield from handoff_families(HandoffCounters() if card is None else self._worker.arrived)
