"""What a worker says of an attempt, and who hears it."""

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
    """Called with each event in the call that reads it from the worker's session."""

    def __call__(self, sender: WorkerRef, event: WorkerEvent) -> None:
        """Must not raise: the session is that of all the worker's attempts."""
