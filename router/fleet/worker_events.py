"""Events of one attempt at its workers, and the protocol of their listeners."""

from __future__ import annotations

from typing import Protocol

import msgspec

from wire.identity import WorkerRef
from wire.messages import Failed, Handed, Kept, Output, Prefilled, Released


class WorkerLost(msgspec.Struct, frozen=True):
    """The session with this incarnation ended."""

    cause: str


WorkerEvent = Output | Prefilled | Handed | Released | Kept | Failed | WorkerLost


class Listener(Protocol):
    """Receives each event in the call that reads it from the worker's session."""

    def __call__(self, sender: WorkerRef, event: WorkerEvent) -> None:
        """Handle an event. Must not raise: the session serves all attempts at the worker."""
