"""What the router counts, for Prometheus. One registry per router: nothing is global."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from router.errors import FACES, ClientGone, RouterError, face_of
from router.fleet_metrics import FleetCollector, FleetView
from router.requests import Ending

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OUTCOMES = ("ok", "cancelled", *dict.fromkeys(face.outcome for face in FACES.values()))
DOORS = ("grpc", "http")

_TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10)
_TPOT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
_STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class RouterMetrics:
    """The fleet is asked at every scrape."""

    def __init__(self, fleet: FleetView) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(FleetCollector(fleet))
        self._make_counters()
        self._make_histograms()

    def _make_counters(self) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"tandem_{name}", text, labels, registry=self._registry)

        self.requests = counter(
            "requests", "Requests that ended, by door and outcome.", ("door", "outcome")
        )
        for door in DOORS:
            for outcome in OUTCOMES:
                self.requests.labels(door, outcome)
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of finished requests.")
        self.cached_tokens = counter("cached_tokens", "Prompt tokens found in a prefix cache.")
        self.generated_tokens = counter("generated_tokens", "Tokens of finished requests.")
        self.transfer_bytes = counter("transfer_bytes", "KV cache bytes moved between workers.")
        self.resubmissions = counter("resubmissions", "Attempts that followed a failed one.")
        self._queued = Gauge(
            "tandem_requests_queued",
            "Requests that wait in the router for workers to have room.",
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "tandem_requests_in_flight", "Requests in the router now.", registry=self._registry
        )

    def _make_histograms(self) -> None:
        def seconds(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(
                f"tandem_{name}_seconds", text, buckets=buckets, registry=self._registry
            )

        self.ttft = seconds("time_to_first_token", "Arrival to first token.", _TTFT_BUCKETS)
        self.tpot = seconds("time_per_output_token", "Mean after the first token.", _TPOT_BUCKETS)
        self.queue = seconds("queue", "Waiting at the prefill worker.", _STAGE_BUCKETS)
        self.prefill = seconds("prefill", "Computing the prompt.", _STAGE_BUCKETS)
        self.transfer = seconds("transfer", "KV cache writes under way.", _STAGE_BUCKETS)
        self.exposed = seconds(
            "transfer_exposed", "Handoff time that prefill did not hide.", _STAGE_BUCKETS
        )
        self.decode = seconds("decode", "First token to last.", _STAGE_BUCKETS)

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Asked at every scrape."""
        self._queued.set_function(length)

    @contextmanager
    def request(self, door: str) -> Iterator[None]:
        """Counts one request by how the block ends."""
        outcome = "internal"
        try:
            yield
            outcome = "ok"
        except RouterError as error:
            outcome = face_of(error).outcome
            raise
        except (asyncio.CancelledError, GeneratorExit, ClientGone):
            outcome = "cancelled"
            raise
        finally:
            self.requests.labels(door, outcome).inc()

    def observe(self, ending: Ending) -> None:
        """Everything that a finished request tells."""
        usage, timing = ending.usage, ending.timing
        self.prompt_tokens.inc(usage.prompt_tokens)
        self.cached_tokens.inc(usage.cached_tokens)
        self.generated_tokens.inc(usage.completion_tokens)
        if timing.transfer is not None:
            self.transfer_bytes.inc(timing.transfer.num_bytes)
            self.transfer.observe(timing.transfer.transfer_s)
            self.exposed.observe(timing.transfer.exposed_s)
        for histogram, value in (
            (self.ttft, timing.ttft_s),
            (self.tpot, timing.tpot_s),
            (self.queue, timing.queue_s),
            (self.prefill, timing.prefill_s),
            (self.decode, timing.decode_s),
        ):
            if value is not None:
                histogram.observe(value)

    def expose(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)
