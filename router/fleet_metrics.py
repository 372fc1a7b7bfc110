"""What the fleet knows of its workers and links, for Prometheus: one scrape shows the cluster."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.member import Member, MemberState
from runtime.handoffs import HandoffBook
from runtime.link_families import handoff_families, link_families
from runtime.worker_families import WorkerFamilies
from wire.identity import Role, WorkerRef
from wire.messages import Link


class FleetView(Protocol):
    """What is read of a fleet, or of several; see router.fleets.Fleets."""

    handoffs: HandoffBook

    @property
    def num_kept(self) -> int: ...

    def count(self) -> dict[tuple[str, Role, MemberState], int]: ...

    def members(self) -> list[Member]: ...

    def links(self) -> list[tuple[WorkerRef, Link]]: ...

    def block_size(self, ref: WorkerRef) -> int: ...


class FleetCollector(Collector):
    """Asked at every scrape."""

    def __init__(self, fleet: FleetView) -> None:
        self._fleet = fleet

    def collect(self) -> Iterable[Metric]:
        workers = GaugeMetricFamily(
            "tandem_workers", "Workers of this router.", labels=("model", "role", "state")
        )
        for (model, role, state), count in self._fleet.count().items():
            workers.add_metric((model, role.value, state.value), count)
        yield workers
        yield CounterMetricFamily(
            "tandem_handoffs_kept",
            "Handoffs of which nothing came: the first worker went on.",
            value=self._fleet.num_kept,
        )
        yield CounterMetricFamily(
            "tandem_transfer_bytes",
            "KV cache bytes moved between workers.",
            value=self._fleet.handoffs.num_bytes,
        )
        known = WorkerFamilies()
        for member in self._fleet.members():
            known.add(member.card, member.report)
        yield from known.families
        yield from link_families(self._fleet.links())
        yield from handoff_families(self._fleet.handoffs)
