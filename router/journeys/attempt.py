"""One attempt at a request: its workers' outputs become new tokens, their reports its record.

Events are handled in the call that reads them from a worker's session. The journey's coroutine
waits only for the attempt's end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.answers.token_merger import TokenGap, TokenMerger
from router.errors import DeadlineExceeded, InvalidRequest
from router.fleet.attempt_log import AttemptFailed, AttemptLog
from router.fleet.worker_events import WorkerEvent, WorkerLost
from router.requests.request import GenerateRequest
from wire.identity import AttemptId, WorkerRef
from wire.messages import Failed, Handed, Kept, Output, Prefilled, Released

TakeOutput = Callable[[Output], bool]
"""Takes the next new tokens of an answer; returns whether the answer wants more."""


class Attempt:
    """One attempt at a request. `on_event` is the Listener of its workers.

    `take` is called with new tokens, and `on_progress` when the record has changed meanwhile.
    """

    def __init__(
        self,
        attempt_id: AttemptId,
        request: GenerateRequest,
        record: AttemptLog,
        merger: TokenMerger,
        take: TakeOutput,
        on_progress: Callable[[], None],
    ) -> None:
        self.attempt_id = attempt_id
        self.record = record
        self.finished = False
        """The last token has come; until then an attempt that ends is cancelled on its workers."""
        self._request = request
        self._merger = merger
        self._take = take
        self._on_progress = on_progress
        self._over = False
        self._failure: Exception | None = None
        self._changed: asyncio.Future[None] | None = None

    def on_event(self, sender: WorkerRef, event: WorkerEvent) -> None:
        """The Listener: an error here fails this request, but not the worker's session."""
        try:
            if isinstance(event, Output):
                self._on_output(sender, event)
            else:
                self._on_report(sender, event)
        except Exception as error:  # noqa: BLE001  # raised where the request's coroutine waits
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End the attempt with an error, unless it has ended."""
        if not self._over:
            self._failure = error
            self._end()

    async def wait_ended(self) -> None:
        """Wait until it is finished, or the answer wants no more. Raises AttemptFailed,
        InvalidRequest, and the error that it was made to `fail` with."""
        while not self._over:
            await self._change()
        if self._failure is not None:
            raise self._failure

    async def wait_reported(self, timeout_s: float) -> None:
        """Wait for reports of what the stages took, which may follow the last token."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.record.complete:
                    await self._change()
        except TimeoutError:
            return

    async def _change(self) -> None:
        self._changed = asyncio.get_running_loop().create_future()
        await self._changed

    def _end(self) -> None:
        self._over = True
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def _on_output(self, sender: WorkerRef, output: Output) -> None:
        if self._over:
            return
        if not self.record.destination_spoke and sender == self.record.destination:
            self.record.destination_spoke = True
            self._on_progress()
        try:
            new = self._merger.merge(output)
        except TokenGap as gap:
            raise self._failed(sender, str(gap)) from None
        wants_more = self._take(new) if new.tokens or new.finish is not None else True
        if new.finish is not None:
            self.finished = True
            self._end()
        elif not wants_more:
            self._end()

    def _on_report(self, sender: WorkerRef, event: WorkerEvent) -> None:
        ends = self._ends_attempt(sender, event)
        if self._over:
            self._wake()
        elif ends:
            raise self._failure_of(sender, event)
        else:
            self._on_progress()

    def _ends_attempt(self, sender: WorkerRef, event: WorkerEvent) -> bool:
        """Enter the event in the record; returns whether it ends the attempt."""
        match event:
            case WorkerLost() if sender == self.record.destination and not self.record.moved:
                self.record.lost_destination = event
            case WorkerLost() | Failed():
                return self.record.matters(sender)
            case Prefilled():
                self.record.prefilled = event
            case Kept():
                self.record.kept = event
            case Handed():
                self.record.handed = event
            case Released():
                self.record.released = True
                return self.record.lost_destination is not None
        return False

    def _failure_of(self, sender: WorkerRef, event: WorkerEvent) -> Exception:
        if isinstance(event, Failed):
            if event.invalid:
                return InvalidRequest(f"request {self._request.request_id}: {event.cause}")
            return AttemptFailed(event.stage, sender, event.cause, retryable=event.retryable)
        # A release comes here when the destination was lost before it could say that it accepted.
        lost = event if isinstance(event, WorkerLost) else self.record.lost_destination
        assert lost is not None
        worker = sender if isinstance(event, WorkerLost) else self.record.destination
        assert worker is not None
        return AttemptFailed(self.record.stage, worker, lost.cause, retryable=True, lost=True)

    def _failed(self, sender: WorkerRef, cause: str) -> AttemptFailed:
        worker = self.record.worker or sender
        return AttemptFailed(self.record.stage, worker, cause, retryable=True)


def too_late(request: GenerateRequest, record: AttemptLog) -> DeadlineExceeded:
    """The error that names the running stage and its worker."""
    where = f" on {record.worker}" if record.worker else ""
    return DeadlineExceeded(
        f"request {request.request_id}: its {request.timeout_s:.3g} s are over "
        f"while {record.stage} was under way{where}"
    )
