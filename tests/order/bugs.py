"""Seeded bugs of order, each of which the model must find in some schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.async_engine import AsyncEngine
from engine.device.device import LayerEvents
from engine.engine import Engine
from engine.runner import OnLayer
from kv_transfer.endpoints.staged_writes import StagedTransfer
from kv_transfer.handoff.destination import DestinationHandoff
from kv_transfer.handoff.effects import Effect, Verify, Write
from kv_transfer.handoff.source import SourceHandoff
from kv_transfer.layout.checksum_stream import StreamChecksum
from worker.steps.destination_handoffs import DestinationHandoffs


@dataclass(frozen=True)
class Bug:
    """`method` of `owner` does not wait for what it should."""

    what: str
    owner: type[Any]
    method: str
    broken: Callable[..., Any]


def notify_at_once(events: LayerEvents, on_layer: OnLayer) -> None:
    for number in range(1, len(events._events) + 1):
        on_layer(number)


def post_at_once(transfer: StagedTransfer) -> bool:
    if transfer._posted is None:
        transfer._posted = transfer._post()
    return transfer._posted.done()


write = SourceHandoff._write


def write_unnoticed(source: SourceHandoff, *args: Any) -> Write:
    """The commit does not wait for it."""
    made = write(source, *args)
    del source._outstanding[made.write_id]
    return made


def run_before_verified(
    handoffs: DestinationHandoffs, handoff: DestinationHandoff, verify: Verify
) -> list[Effect]:
    handoffs._endpoint.checksum(handoff.offer.layout)(verify.blocks, verify.first)
    assert handoff._commit is not None
    return handoff.checksummed(handoff._commit.checksum)


BUGS = (
    Bug("a layer's event is not waited for", LayerEvents, "notify", notify_at_once),
    Bug("a step's blocks are freed before it is over", AsyncEngine, "_release", Engine._release),
    Bug("a sum is read before its event", StreamChecksum, "try_sum", lambda it: it._sum),
    Bug("staging is sent before it is filled", StagedTransfer, "done", post_at_once),
    Bug("a commit does not wait for its writes", SourceHandoff, "_write", write_unnoticed),
    Bug(
        "blocks are decoded from while they are read for their checksum",
        DestinationHandoffs,
        "_verify",
        run_before_verified,
    ),
)
