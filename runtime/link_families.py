"""Prometheus metrics of links between workers, exported by workers and by routers."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from runtime.handoffs import HandoffCounters
from wire.identity import WorkerRef
from wire.reports import LinkReport

_ENDS = ("source", "destination")
_TRAFFIC = {
    "num_writes": ("writes", "Block writes that arrived."),
    "num_bytes": ("written_bytes", "Bytes that arrived in block writes."),
    "num_descriptors": (
        "descriptors",
        "Descriptors posted to the fabric; contiguous parts are merged into one.",
    ),
    "post_s": ("post_seconds", "Seconds spent posting writes to the fabric."),
    "fabric_s": ("fabric_seconds", "Seconds from start to end of each write, summed."),
}
"""Counters of a link's traffic, for transports that count it; they restart with each link."""
_HANDOFFS = {
    "num": ("handoffs", "Handoffs of sequences, and copies of cached prefixes, that arrived."),
    "num_bytes": ("handoff_bytes", "KV cache bytes transferred by handoffs."),
    "transfer_s": ("handoff_seconds", "Seconds during which writes of handoffs were in flight."),
    "hidden_s": (
        "handoff_hidden_seconds",
        "Part of tandem_link_handoff_seconds_total that overlapped prefill.",
    ),
    "exposed_s": (
        "handoff_exposed_seconds",
        "Seconds from the end of prefill until the destination could continue.",
    ),
}


def link_families(links: Iterable[tuple[WorkerRef, LinkReport]]) -> Iterable[Metric]:
    """Metrics of link measurements and traffic; each report comes with its source worker."""
    rates = GaugeMetricFamily(
        "tandem_link_bytes_per_second",
        "Bandwidth of a link, measured when it was made.",
        labels=_ENDS,
    )
    latencies = GaugeMetricFamily(
        "tandem_link_latency_seconds", "Latency of a write of one block.", labels=_ENDS
    )
    slow = GaugeMetricFamily(
        "tandem_link_slow",
        "1 for a link that is far slower than its kind should be.",
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


def handoff_families(book: HandoffCounters) -> Iterable[Metric]:
    """Metrics of the handoffs between each pair of workers."""
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
