"""What the workers say of one attempt: their outputs become tokens, all else its record."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from router.answers.token_merger import TokenMerger, Tokens
from router.errors import DeadlineExceeded, InvalidRequest, Unavailable
from router.fleet.attempt_log import AttemptFailed, AttemptLog
from router.fleet.mailbox import DeadlinePassed, Mailbox, RouterStops, WorkerEvent, WorkerLost
from router.requests.request import GenerateRequest
from wire.identity import AttemptId, WorkerRef
from wire.messages import Failed, Handed, Kept, Output, Prefilled, Released

Heard = tuple[WorkerRef | None, WorkerEvent]
"""News, and which worker sent it; None for what this router tells itself."""


class AttemptEvents:
    """Reads a journey's mailbox for the attempt that is under way; earlier attempts are
    nobody's."""

    def __init__(
        self,
        attempt_id: AttemptId,
        request: GenerateRequest,
        record: AttemptLog,
        merger: TokenMerger,
        mailbox: Mailbox,
    ) -> None:
        self._attempt_id = attempt_id
        self._request = request
        self._record = record
        self._merger = merger
        self._mailbox = mailbox

    async def tokens(self) -> Tokens:
        """What is new, perhaps nothing. Raises AttemptFailed, DeadlineExceeded, InvalidRequest,
        Unavailable."""
        return self._fold(await self._mailbox.take())

    def next_output(self, sender: WorkerRef | None, item: WorkerEvent) -> Output | None:
        """Merged already, when it is one in the middle of the answer, and all of it is new."""
        if (
            not isinstance(item, Output)
            or item.attempt_id != self._attempt_id
            or item.finish is not None
        ):
            return None
        if not item.tokens or not self._merger.follow(item):
            return None
        self._hear_from(sender)
        return item

    async def wait_until_complete(self, timeout_s: float) -> None:
        """What the stages took may be told after the last token: it is worth a moment."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._record.complete:
                    for sender, item in await self._mailbox.take():
                        self._ends_attempt(sender, item)
        except TimeoutError:
            return

    def _fold(self, news: Sequence[Heard]) -> Tokens:
        """What failed is raised only when no output came before it: those go to the client
        first."""
        outputs: list[Output] = []
        for index, (sender, item) in enumerate(news):
            if isinstance(item, Output):
                if item.attempt_id == self._attempt_id:
                    self._hear_from(sender)
                    outputs.append(item)
            elif self._ends_attempt(sender, item):
                if outputs:
                    self._put_back(news[index:])
                    break
                self._raise(sender, item)
        return self._merger.merge(outputs)

    def _hear_from(self, sender: WorkerRef | None) -> None:
        if not self._record.destination_spoke:
            self._record.destination_spoke = sender == self._record.destination

    def _put_back(self, news: Sequence[Heard]) -> None:
        for sender, item in news:
            self._mailbox.put(sender, item)

    def _ends_attempt(self, sender: WorkerRef | None, item: WorkerEvent) -> bool:
        """Also keeps the record."""
        match item:
            case DeadlinePassed() | RouterStops():
                return True
            case WorkerLost() if sender == self._record.destination and not self._record.moved:
                self._record.lost_destination = item
            case WorkerLost():
                return self._matters(sender)
            case Failed():
                return item.attempt_id == self._attempt_id and self._matters(sender)
            case Prefilled() if item.attempt_id == self._attempt_id:
                self._record.prefilled = item
            case Kept() if item.attempt_id == self._attempt_id:
                self._record.kept = item
            case Handed() if item.attempt_id == self._attempt_id:
                self._record.handed = item
            case Released() if item.attempt_id == self._attempt_id:
                self._record.released = True
                return self._record.lost_destination is not None
        return False

    def _matters(self, sender: WorkerRef | None) -> bool:
        """Once the sequence has moved, only its destination can fail it."""
        placement = self._record.placement
        assert placement is not None
        if sender == placement.destination:
            return True
        return sender == placement.first and not self._record.moved

    def _raise(self, sender: WorkerRef | None, item: WorkerEvent) -> None:
        if isinstance(item, DeadlinePassed):
            raise too_late(self._request, self._record)
        if isinstance(item, RouterStops):
            text = f"request {self._request.request_id}: this router was stopped"
            raise Unavailable(text, reason="stopped")
        assert sender is not None
        if isinstance(item, Failed):
            if item.invalid:
                raise InvalidRequest(f"request {self._request.request_id}: {item.cause}")
            raise AttemptFailed(item.stage, sender, item.cause, retryable=item.retryable)
        # A release comes here when the destination was lost before it could say that it accepted.
        lost = item if isinstance(item, WorkerLost) else self._record.lost_destination
        assert lost is not None
        worker = sender if isinstance(item, WorkerLost) else self._record.destination
        assert worker is not None
        raise AttemptFailed(self._record.stage, worker, lost.cause, retryable=True, lost=True)


def too_late(request: GenerateRequest, record: AttemptLog) -> DeadlineExceeded:
    """Says what was under way, and where."""
    where = f" on {record.worker}" if record.worker else ""
    return DeadlineExceeded(
        f"request {request.request_id}: its {request.timeout_s:.3g} s are over "
        f"while {record.stage} was under way{where}"
    )
