"""Copies a cached prefix from another worker to the one that will prefill."""

from __future__ import annotations

import asyncio

from router.fleet.member import Member
from router.fleet.worker_events import WorkerEvent
from runtime.session import SessionClosed
from wire.handoff import Moved
from wire.identity import WorkerRef
from wire.messages import CopyPrefix, Handed, Released


async def fetch_prefix(
    copy: CopyPrefix, source: Member, target: Member, wait_s: float
) -> Moved | None:
    """Copy the prefix; returns None if that fails or takes longer than `wait_s`.

    A failed copy is cancelled, and the worker computes the prefix instead.
    """
    copied = _CopyListener()
    ends = (source, target)
    for member in ends:
        member.attach(copy.attempt_id, copied.on_event)
    moved = None
    try:
        source.send(copy)
        async with asyncio.timeout(wait_s):
            moved = await copied.outcome
    except (SessionClosed, TimeoutError):
        return None
    finally:
        for member in ends:
            if moved is None:
                member.cancel(copy.attempt_id)
            member.detach(copy.attempt_id)
    return moved


class _CopyListener:
    """Waits for the destination's report of one copy, or for any report that it failed."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Moved | None] = asyncio.get_running_loop().create_future()

    def on_event(self, sender: WorkerRef, event: WorkerEvent) -> None:
        if self.outcome.done() or isinstance(event, Released):
            return
        # Every other event says that the copy failed: Kept, Failed, or one of the workers is lost.
        self.outcome.set_result(event.moved if isinstance(event, Handed) else None)
