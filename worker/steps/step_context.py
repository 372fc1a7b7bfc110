"""The surroundings of a worker's step loop: what its attempts, handoffs and reports are given."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from engine.engine import Engine
from kv_transfer.endpoints.endpoint import Endpoint
from wire.handoff import Handoff
from wire.identity import WorkerRef
from wire.messages import Destination, Message
from worker.config import WorkerConfig
from worker.steps.call_queue import Call, CallQueue


@dataclass(frozen=True, slots=True)
class Peer:
    """Another worker, and the link by which it speaks: one session, and the memory opened for it.

    A link's name is never used twice.
    """

    ref: WorkerRef
    link: str


class Outbox(Protocol):
    """Messages of the step loop's thread to routers and workers; no method blocks."""

    def to_router(self, router_id: str, message: Message) -> None: ...

    def to_routers(self, message: Message) -> None: ...

    def to_worker(self, peer: Destination, message: Handoff) -> None:
        """Send over the session that this worker has opened to the peer, or opens now."""
        ...

    def over_link(self, link: str, message: Handoff) -> None:
        """Send over a link's session. If it has ended, the message is lost, as the attempt is."""
        ...

    def cut_link(self, link: str, cause: str) -> None:
        """End a link's session."""
        ...

    def flush(self) -> None:
        """Send all messages since the last flush."""
        ...


@dataclass(frozen=True, slots=True)
class StepContext:
    """What is given to everything in the step loop's thread, which owns all of it but `calls`."""

    ref: WorkerRef
    content: str
    """Names the model, and how its blocks are checked; see wire.messages.WorkerCard."""
    config: WorkerConfig
    engine: Engine
    endpoint: Endpoint
    outbox: Outbox
    clock: Callable[[], float] = time.monotonic
    """Seconds; only differences count."""
    calls: CallQueue = field(default_factory=CallQueue)
    device: str = "cpu"
    """The device of the engine's cache, "cpu" or "cuda:N"."""

    @property
    def call(self) -> Call:
        """Queues a callback for the step loop's thread; thread-safe."""
        return self.calls.put
