"""Prometheus metrics of all workers and links, so that scraping one router shows the cluster."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.fleet.member import Member, MemberState
from router.placing.revisions import RevisionView
from runtime.handoffs import HandoffCounters
from runtime.link_families import handoff_families, link_families
from runtime.worker_families import WorkerFamilies
from wire.identity import Role, WorkerRef
from wire.reports import LinkReport


class FleetView(Protocol):
    """The properties of a fleet that metrics read; see router.fleet.fleets.Fleets."""

    handoffs: HandoffCounters

    @property
    def num_failed_handoffs(self) -> int: ...

    def count(self) -> dict[tuple[str, Role, MemberState], int]: ...

    def members(self) -> list[Member]: ...

    def revisions(self) -> list[tuple[str, RevisionView]]: ...

    def links(self) -> list[tuple[WorkerRef, LinkReport]]: ...

    def block_size(self, ref: WorkerRef) -> int: ...


class FleetCollector(Collector):
    """Collects the metrics at each scrape."""

    def __init__(self, fleet: FleetView) -> None:
        self._fleet = fleet

    def collect(self) -> Iterable[Metric]:
        workers = GaugeMetricFamily(
            "tandem_workers",
            "Workers of this router by model, role and state.",
            labels=("model", "role", "state"),
        )
        for (model, role, state), count in self._fleet.count().items():
            workers.add_metric((model, role.value, state.value), count)
        yield workers
        yield from _revision_families(self._fleet.revisions())
        yield CounterMetricFamily(
            "tandem_handoffs_kept",
            "Failed handoffs, after which the first worker decoded.",
            value=self._fleet.num_failed_handoffs,
        )
        yield CounterMetricFamily(
            "tandem_transfer_bytes",
            "KV cache bytes transferred between workers.",
            value=self._fleet.handoffs.num_bytes,
        )
        known = WorkerFamilies()
        for member in self._fleet.members():
            known.add(member.card, member.report)
        yield from known.families
        yield from link_families(self._fleet.links())
        yield from handoff_families(self._fleet.handoffs)


def _revision_families(revisions: Iterable[tuple[str, RevisionView]]) -> Iterable[Metric]:
    """Metrics of revisions; a model has several during an upgrade."""
    ready = GaugeMetricFamily(
        "tandem_revision_workers",
        "Ready workers of each revision of a model's weights.",
        labels=("model", "revision", "role"),
    )
    serving = GaugeMetricFamily(
        "tandem_revision_serving",
        "1 for the revision that serves a model's new requests, 0 for others with workers.",
        labels=("model", "revision"),
    )
    for model, view in revisions:
        serving.add_metric((model, view.revision), float(view.serves))
        for role, count in view.num_ready.items():
            ready.add_metric((model, view.revision, role.value), count)
    yield from (ready, serving)
