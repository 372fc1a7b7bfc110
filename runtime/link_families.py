"""The ways between workers, as Prometheus has them: in a worker's scrape, and in a router's."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from runtime.handoffs import HandoffBook
from wire.identity import WorkerRef
from wire.reports import LinkReport

_ENDS = ("source", "destination")
_TRAFFIC = {
    "num_writes": ("writes", "Writes that arrived."),
    "num_bytes": ("written_bytes", "Bytes that arrived."),
    "num_descriptors": ("descriptors", "Pieces that they went in."),
    "post_s": ("post_seconds", "Handing writes to the fabric."),
    "fabric_s": ("fabric_seconds", "Start to end of each write, added up."),
}
"""What transports count, where they do; it starts anew with each link."""
_HANDOFFS = {
    "num": ("handoffs", "Sequences, and copies of cached blocks, that arrived."),
    "num_bytes": ("handoff_bytes", "KV cache bytes that they brought."),
    "transfer_s": ("handoff_seconds", "While their writes were under way."),
    "hidden_s": (
        "handoff_hidden_seconds",
        "The part of tandem_link_handoff_seconds_total while prompts were still computed.",
    ),
    "exposed_s": (
        "handoff_exposed_seconds",
        "From the end of prefill until the destination could go on.",
    ),
}


def link_families(links: Iterable[tuple[WorkerRef, LinkReport]]) -> Iterable[Metric]:
    """What workers measured of their links, given with their sources."""
    rates = GaugeMetricFamily(
        "tandem_link_bytes_per_second", "Measured when the link was made.", labels=_ENDS
    )
    latencies = GaugeMetricFamily(
        "tandem_link_latency_seconds", "Of a write of one block.", labels=_ENDS
    )
    slow = GaugeMetricFamily(
        "tandem_link_slow",
        "1 for a link that gives far less than its kind should.",
        labels=[*_ENDS, "transport", "kind"],
    )
    counted = _counters(_TRAFFIC)
    for source, link in links:
        ends = source.worker_id, link.destination.worker_id
        slow.add_metric((*ends, link.transport, link.kind), link.slow)
        rates.add_metric(ends, link.bytes_per_s)
        latencies.add_metric(ends, link.latency_s)
        if link.traffic is not None:
            for field, family in counted.items():
                family.add_metric(ends, getattr(link.traffic, field))
    return rates, latencies, slow, *counted.values()


def handoff_families(book: HandoffBook) -> Iterable[Metric]:
    """What was handed over between each pair of workers."""
    families = _counters(_HANDOFFS)
    for ends, handoffs in book.pairs().items():
        for field, family in families.items():
            family.add_metric(ends, getattr(handoffs, field))
    return families.values()


def _counters(fields: dict[str, tuple[str, str]]) -> dict[str, CounterMetricFamily]:
    return {
        field: CounterMetricFamily(f"tandem_link_{name}", text, labels=_ENDS)
        for field, (name, text) in fields.items()
    }
