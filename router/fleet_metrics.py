"""What the fleet knows of its workers and links, for Prometheus: one scrape shows the cluster."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.member import Member, MemberState
from wire.identity import Role, WorkerRef
from wire.messages import Link, Report, Traffic

_WORKER = ("worker", "role")
_LINK = ("source", "destination")


class FleetView(Protocol):
    """What is read of a fleet; see router.fleet.Fleet."""

    num_kept: int

    def count(self) -> dict[tuple[Role, MemberState], int]: ...

    def members(self) -> list[Member]: ...

    def links(self) -> list[tuple[WorkerRef, Link]]: ...


class FleetCollector(Collector):
    """Asked at every scrape."""

    def __init__(self, fleet: FleetView) -> None:
        self._fleet = fleet

    def collect(self) -> Iterable[Metric]:
        workers = GaugeMetricFamily(
            "tandem_workers", "Workers of this router.", labels=("role", "state")
        )
        for (role, state), count in self._fleet.count().items():
            workers.add_metric((role.value, state.value), count)
        yield workers
        yield CounterMetricFamily(
            "tandem_handoffs_kept",
            "Handoffs of which nothing came: the first worker went on.",
            value=self._fleet.num_kept,
        )
        loads = _Loads()
        for member in self._fleet.members():
            if member.report is not None:
                loads.add((member.ref.worker_id, member.card.role.value), member.report)
        yield from loads.families
        yield from self._links()

    def _links(self) -> Iterable[Metric]:
        rates = GaugeMetricFamily(
            "tandem_link_bytes_per_second", "Measured when the link was made.", labels=_LINK
        )
        latencies = GaugeMetricFamily(
            "tandem_link_latency_seconds", "Of a write of one block.", labels=_LINK
        )
        slow = GaugeMetricFamily(
            "tandem_link_slow",
            "1 for a link that gives far less than its kind should.",
            labels=[*_LINK, "transport", "kind"],
        )
        counted = _Traffic()
        for source, link in self._fleet.links():
            names = (source.worker_id, link.destination.worker_id)
            slow.add_metric((*names, link.transport, link.kind), link.slow)
            rates.add_metric(names, link.bytes_per_s)
            latencies.add_metric(names, link.latency_s)
            if link.traffic is not None:
                counted.add(names, link.traffic)
        yield rates
        yield latencies
        yield slow
        yield from counted.families.values()


class _Loads:
    """What workers report of themselves; it lags by a second at most."""

    def __init__(self) -> None:
        self._blocks = GaugeMetricFamily(
            "tandem_worker_blocks",
            "KV cache blocks: in use, free but found again by their prefix, or blank.",
            labels=(*_WORKER, "tier", "state"),
        )
        self._used = GaugeMetricFamily(
            "tandem_worker_kv_used_ratio", "Blocks in use, of all on the device.", labels=_WORKER
        )
        self._sequences = GaugeMetricFamily(
            "tandem_worker_sequences", "Running and waiting ones.", labels=(*_WORKER, "state")
        )
        self._tokens = GaugeMetricFamily(
            "tandem_worker_waiting_tokens",
            "Prompt tokens that still have to be computed.",
            labels=_WORKER,
        )
        self._handoffs = GaugeMetricFamily(
            "tandem_worker_handoffs", "Under way, at either end.", labels=_WORKER
        )

    @property
    def families(self) -> tuple[Metric, ...]:
        return self._blocks, self._used, self._sequences, self._tokens, self._handoffs

    def add(self, names: tuple[str, str], report: Report) -> None:
        blank = report.free_blocks - report.cached_blocks
        used = report.num_blocks - report.free_blocks
        for state, count in (("used", used), ("cached", report.cached_blocks), ("blank", blank)):
            self._blocks.add_metric((*names, "device", state), count)
        if report.num_host_blocks:
            others = report.num_host_blocks - report.cached_host_blocks
            self._blocks.add_metric((*names, "host", "cached"), report.cached_host_blocks)
            self._blocks.add_metric((*names, "host", "other"), others)
        self._used.add_metric(names, used / max(1, report.num_blocks))
        self._sequences.add_metric((*names, "running"), report.num_running)
        self._sequences.add_metric((*names, "waiting"), report.num_waiting)
        self._tokens.add_metric(names, report.waiting_tokens)
        self._handoffs.add_metric(names, report.num_handoffs)


class _Traffic:
    """What went over links, where their workers count it; starts anew with each link."""

    def __init__(self) -> None:
        def counter(name: str, text: str) -> CounterMetricFamily:
            return CounterMetricFamily(f"tandem_link_{name}", text, labels=_LINK)

        self.families = {
            "num_writes": counter("writes", "Writes that arrived."),
            "num_bytes": counter("written_bytes", "Bytes that arrived."),
            "num_descriptors": counter("descriptors", "Pieces that they went in."),
            "post_s": counter("post_seconds", "Handing writes to the fabric."),
            "fabric_s": counter("fabric_seconds", "Start to end of each write, added up."),
        }

    def add(self, names: tuple[str, str], traffic: Traffic) -> None:
        for field, family in self.families.items():
            family.add_metric(names, getattr(traffic, field))
