"""Prometheus metrics of a worker's reports, exported by the worker and by routers."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from wire.messages import WorkerCard
from wire.reports import Report, WorkerTotals

WORKER = ("worker", "role")


class WorkerFamilies:
    """Metrics of many workers: `add` each one, then read `families`. Values lag by up to a
    second."""

    def __init__(self) -> None:
        self._info = GaugeMetricFamily(
            "tandem_worker_info",
            "1 for each worker, labelled with its model and addresses.",
            labels=[*WORKER, "model", "address", "metrics_address"],
        )
        self._loads = _Loads()
        self._totals = _TotalsFamilies()

    @property
    def families(self) -> tuple[Metric, ...]:
        return self._info, *self._loads.families, *self._totals.families

    def add(self, card: WorkerCard, report: Report | None) -> None:
        names = card.ref.worker_id, card.role.value
        self._info.add_metric((*names, card.model, card.address, card.metrics_address or ""), 1)
        if report is not None:
            self._loads.add(names, report)
            self._totals.add(names, report, card.layout.block_size)


class _Loads:
    """Gauges of the current load."""

    def __init__(self) -> None:
        self._blocks = GaugeMetricFamily(
            "tandem_worker_blocks",
            "KV cache blocks by state: used, cached (free, but in the prefix cache) or blank.",
            labels=(*WORKER, "tier", "state"),
        )
        self._used = GaugeMetricFamily(
            "tandem_worker_kv_used_ratio",
            "Fraction of the device's KV blocks that are in use.",
            labels=WORKER,
        )
        self._sequences = GaugeMetricFamily(
            "tandem_worker_sequences", "Sequences, running and waiting.", labels=(*WORKER, "state")
        )
        self._tokens = GaugeMetricFamily(
            "tandem_worker_waiting_tokens",
            "Prompt tokens still to be computed.",
            labels=WORKER,
        )
        self._handoffs = GaugeMetricFamily(
            "tandem_worker_handoffs", "Handoffs in progress, at either end.", labels=WORKER
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


class _TotalsFamilies:
    """Counters since the worker's start."""

    def __init__(self) -> None:
        def counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
            return CounterMetricFamily(f"tandem_worker_{name}", text, labels=(*WORKER, *labels))

        self._plain: list[tuple[CounterMetricFamily, Callable[[WorkerTotals], float]]] = [
            (counter("steps", "Engine steps."), lambda it: it.num_steps),
            (counter("step_seconds", "Seconds spent in engine steps."), lambda it: it.step_s),
            (
                counter(
                    "prefilled_tokens", "Prompt tokens that were computed, not found in the cache."
                ),
                lambda it: it.prefilled_tokens,
            ),
            (counter("generated_tokens", "Tokens sampled."), lambda it: it.generated_tokens),
        ]
        self._found = counter(
            "cached_tokens",
            "Prompt tokens found in the prefix cache, by tier: device or host memory.",
            "tier",
        )
        self._offers = counter(
            "offers", "Handoffs offered to this worker, by its answer.", "answer"
        )

    @property
    def families(self) -> tuple[Metric, ...]:
        return *(family for family, _ in self._plain), self._found, self._offers

    def add(self, names: tuple[str, str], report: Report, block_size: int) -> None:
        totals = report.totals
        for family, value in self._plain:
            family.add_metric(names, value(totals))
        self._found.add_metric((*names, "device"), totals.found_blocks * block_size)
        if report.num_host_blocks:
            self._found.add_metric((*names, "host"), totals.found_host_blocks * block_size)
        for answer, count in totals.offers.items():
            self._offers.add_metric((*names, answer), count)
