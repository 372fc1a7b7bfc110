"""What a worker reports of itself, as Prometheus has it: in its own scrape, and in a router's."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from wire.messages import WorkerCard
from wire.reports import Report, WorkerTotals

WORKER = ("worker", "role")


class WorkerFamilies:
    """`add` every worker, then take `families`; what is told lags by a second at most."""

    def __init__(self) -> None:
        self._info = GaugeMetricFamily(
            "tandem_worker_info",
            "1 for each worker: what it serves, and where its own metrics are, if it has any.",
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
    """What there is now."""

    def __init__(self) -> None:
        self._blocks = GaugeMetricFamily(
            "tandem_worker_blocks",
            "KV cache blocks: in use, free but found again by their prefix, or blank.",
            labels=(*WORKER, "tier", "state"),
        )
        self._used = GaugeMetricFamily(
            "tandem_worker_kv_used_ratio", "Blocks in use, of all on the device.", labels=WORKER
        )
        self._sequences = GaugeMetricFamily(
            "tandem_worker_sequences", "Running and waiting ones.", labels=(*WORKER, "state")
        )
        self._tokens = GaugeMetricFamily(
            "tandem_worker_waiting_tokens",
            "Prompt tokens that still have to be computed.",
            labels=WORKER,
        )
        self._handoffs = GaugeMetricFamily(
            "tandem_worker_handoffs", "Under way, at either end.", labels=WORKER
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
    """What it has done since it started."""

    def __init__(self) -> None:
        def counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
            return CounterMetricFamily(f"tandem_worker_{name}", text, labels=(*WORKER, *labels))

        self._plain: list[tuple[CounterMetricFamily, Callable[[WorkerTotals], float]]] = [
            (counter("steps", "Engine steps."), lambda it: it.num_steps),
            (counter("step_seconds", "Time that steps took."), lambda it: it.step_s),
            (
                counter("prefilled_tokens", "Prompt tokens that were computed, not found."),
                lambda it: it.prefilled_tokens,
            ),
            (counter("generated_tokens", "Tokens drawn."), lambda it: it.generated_tokens),
        ]
        self._found = counter(
            "cached_tokens",
            "Tokens of blocks that were found in the cache, on the device or in host memory.",
            "tier",
        )
        self._offers = counter(
            "offers", "Sequences that others wanted to hand over, by the answer.", "answer"
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
