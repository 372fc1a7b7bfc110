"""Prometheus metrics of the router, in a registry of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from router.errors import (
    ERROR_MAPPINGS,
    REASONS,
    ClientGone,
    Internal,
    RouterError,
    mapping_of,
    reason_of,
)
from router.fleet.attempt_log import AttemptLog
from router.fleet.fleet_metrics import FleetCollector, FleetView
from router.requests.request import Ending
from wire.identity import Role

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OUTCOMES = ("ok", "cancelled", *dict.fromkeys(face.outcome for face in ERROR_MAPPINGS.values()))
DOORS = ("grpc", "http")
CACHE_SIDES = ("prefill", "decode", "copied")

Metric = TypeVar("Metric", Counter, Gauge, Histogram)

_MODEL = ("model",)
_TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10)
_TPOT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
_FURTHER = (2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 3600, 7200, 14400, 43200, 86400, float("inf"))
_STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def extended_to(longest_s: float, buckets: tuple[float, ...]) -> tuple[float, ...]:
    """The buckets, extended in steps of about two up to `longest_s` or more."""
    while buckets[-1] < longest_s:
        last = buckets[-1]
        buckets += (min(longest_s, next(each for each in _FURTHER if each > last)),)
    return buckets


class Counted:
    """A request to be counted. `model` is set once the router has found it, so that labels never
    contain names made up by clients."""

    model = ""


class RouterMetrics:
    """The router's metrics. Requests are POST to the two completion endpoints, and Generate.

    The fleet's metrics are collected at each scrape.
    """

    def __init__(self, fleet: FleetView, request_timeout_s: float = 600.0) -> None:
        """Histograms extend to `request_timeout_s`, the longest possible duration."""
        self._fleet = fleet
        self._longest_s = request_timeout_s
        self._registry = CollectorRegistry()
        self._children: dict[tuple[object, tuple[str, ...]], object] = {}
        self._registry.register(FleetCollector(fleet))
        ProcessCollector(registry=self._registry)
        self._make_counters()
        self._make_histograms()

    def _make_counters(self) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"tandem_{name}", text, labels, registry=self._registry)

        self.requests = counter(
            "requests",
            "Finished requests by API (label door), model (empty if unknown) and outcome.",
            ("door", "model", "outcome"),
        )
        self._show_outcomes("")
        self.refusals = counter(
            "refusals", "Requests that ended with an error, by reason.", ("reason",)
        )
        outcomes = [outcome for outcome in OUTCOMES if outcome not in ("ok", "cancelled")]
        for reason in (*REASONS, *outcomes):
            self.refusals.labels(reason)
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of finished requests.", _MODEL)
        self.cached_tokens = counter(
            "cached_tokens",
            "Cached prompt tokens of finished requests: at the prefill worker, at the decode "
            "worker (not transferred), or copied to the prefill worker from another one.",
            (*_MODEL, "side"),
        )
        self.generated_tokens = counter(
            "generated_tokens", "Generated tokens of finished requests.", _MODEL
        )
        self.resubmissions = counter("resubmissions", "Attempts after a failed one.")
        self._queued = Gauge(
            "tandem_requests_queued",
            "Requests waiting in the router's queue for workers.",
            _MODEL,
            registry=self._registry,
        )
        self._wanted = Gauge(
            "tandem_wanted_workers",
            "Workers that a model wants, by the role of their pool.",
            (*_MODEL, "role"),
            registry=self._registry,
        )
        self._unread = Gauge(
            "tandem_unread_bytes",
            "Memory of answers that clients have not read yet.",
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "tandem_requests_in_flight",
            "Requests in the router, queued and running.",
            _MODEL,
            registry=self._registry,
        )

    def _make_histograms(self) -> None:
        def seconds(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            reaching = extended_to(self._longest_s, buckets)
            return Histogram(
                f"tandem_{name}_seconds", text, _MODEL, buckets=reaching, registry=self._registry
            )

        self.ttft = seconds(
            "time_to_first_token", "Time from arrival to the first token.", _TTFT_BUCKETS
        )
        self.tpot = seconds(
            "time_per_output_token", "Mean time per token after the first.", _TPOT_BUCKETS
        )
        self.admission = seconds(
            "admission", "Time in the router's queue, refused requests included.", _STAGE_BUCKETS
        )
        self.queue = seconds("queue", "Time in the prefill worker's queue.", _STAGE_BUCKETS)
        self.prefill = seconds("prefill", "Time of prefill.", _STAGE_BUCKETS)
        self.transfer = seconds(
            "transfer", "Time while KV cache writes were in flight.", _STAGE_BUCKETS
        )
        self.exposed = seconds(
            "transfer_exposed", "Time of handoffs that did not overlap prefill.", _STAGE_BUCKETS
        )
        self.decode = seconds("decode", "Time from the first token to the last.", _STAGE_BUCKETS)
        self._seconds = (
            self.ttft,
            self.tpot,
            self.admission,
            self.queue,
            self.prefill,
            self.transfer,
            self.exposed,
            self.decode,
        )

    def show_unread(self, num_bytes: Callable[[], int]) -> None:
        """Register the gauge of unread bytes; it is read at each scrape."""
        self._unread.set_function(num_bytes)

    def show_wanted(self, model: str, wanted: Callable[[], Mapping[Role, int]]) -> None:
        """Register the gauge of a model's wanted workers; it is read at each scrape."""

        def count(role: Role) -> Callable[[], float]:
            return lambda: wanted().get(role, 0)

        for role in Role:
            self._wanted.labels(model, role.value).set_function(count(role))

    def add_model(self, model: str, queue_length: Callable[[], int]) -> None:
        """Register a model's metrics; the length of its queue is read at each scrape."""
        self._queued.labels(model).set_function(queue_length)
        self._show_outcomes(model)
        for side in CACHE_SIDES:
            self.cached_tokens.labels(model, side)
        for metric in (self.prompt_tokens, self.generated_tokens, self.in_flight, *self._seconds):
            metric.labels(model)

    def _show_outcomes(self, model: str) -> None:
        for door in DOORS:
            for outcome in OUTCOMES:
                self.requests.labels(door, model, outcome)

    def child(self, metric: Metric, *labels: str) -> Metric:
        """The metric with these labels. The library's own look-up takes a lock, and longer than
        counting does."""
        found = self._children.get((metric, labels))
        if found is None:
            found = self._children[metric, labels] = metric.labels(*labels)
        return cast(Metric, found)

    @contextmanager
    def request(self, door: str) -> Iterator[Counted]:
        """Count one request, by how the block ends."""
        counted = Counted()
        try:
            yield counted
        except RouterError as error:
            self.refused(door, error, counted.model)
            raise
        except (asyncio.CancelledError, GeneratorExit, ClientGone):
            self.child(self.requests, door, counted.model, "cancelled").inc()
            raise
        except BaseException:
            self.refused(door, Internal(""), counted.model)
            raise
        self.child(self.requests, door, counted.model, "ok").inc()

    def refused(self, door: str, error: RouterError, model: str = "") -> None:
        """Count one request that ends with this error."""
        self.child(self.requests, door, model, mapping_of(error).outcome).inc()
        self.child(self.refusals, reason_of(error)).inc()

    def observe(self, ending: Ending, record: AttemptLog, model: str) -> None:
        """Record a finished answer; of several answers to a prompt, one counts the prompt."""
        usage, timing = ending.usage, ending.timing
        self.resubmissions.inc(ending.attempts - 1)
        self.child(self.prompt_tokens, model).inc(usage.prompt_tokens)
        self.child(self.generated_tokens, model).inc(usage.completion_tokens)
        if usage.prompt_tokens:
            self._observe_cached(ending, record, model)
        if timing.transfer is not None:
            self.child(self.transfer, model).observe(timing.transfer.transfer_s)
            self.child(self.exposed, model).observe(timing.transfer.exposed_s)
        for histogram, value in (
            (self.ttft, timing.ttft_s),
            (self.tpot, timing.tpot_s),
            (self.queue, timing.queue_s),
            (self.prefill, timing.prefill_s),
            (self.decode, timing.decode_s),
        ):
            if value is not None:
                self.child(histogram, model).observe(value)

    def _observe_cached(self, ending: Ending, record: AttemptLog, model: str) -> None:
        found, copied, held = ending.usage.cached_tokens, 0, 0
        assert record.placement is not None
        first, destination = record.placement.first, record.placement.destination
        if record.fetched is not None:
            copied = min(found, record.fetched.num_blocks * self._fleet.block_size(first))
        if record.handed is not None and destination is not None:
            num_tokens = record.handed.moved.skipped_blocks * self._fleet.block_size(destination)
            held = min(ending.usage.prompt_tokens, num_tokens)
        for side, count in zip(CACHE_SIDES, (found - copied, held, copied), strict=True):
            self.child(self.cached_tokens, model, side).inc(count)

    def expose(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
