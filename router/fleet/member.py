"""One incarnation of a worker, as this router knows it: its session, its load, its attempts."""

from __future__ import annotations

import enum

from router.fleet.mailbox import Mailbox, WorkerEvent, WorkerLost
from router.placing.ledger import Ledger
from runtime.session import Session, SessionClosed
from wire.identity import AttemptId, WorkerRef
from wire.messages import Cancel, Message, WorkerCard
from wire.reports import LinkReport, Report, WorkerState


class MemberState(enum.Enum):
    JOINING = "joining"  # announced, its session is being opened
    READY = "ready"
    DRAINING = "draining"  # finishes what it has, takes nothing new
    LOST = "lost"  # for ever: the next incarnation is another member


class Member:
    """Owned by the fleet; journeys hold attempts on it."""

    def __init__(self, card: WorkerCard, ledger: Ledger) -> None:
        self.card = card
        self.ledger = ledger
        """Of its revision."""
        self.state = MemberState.JOINING
        self.report: Report | None = None
        self.links: dict[WorkerRef, LinkReport] = {}
        self._session: Session | None = None
        self._mailboxes: dict[AttemptId, Mailbox] = {}

    @property
    def ref(self) -> WorkerRef:
        return self.card.ref

    def open(self, session: Session) -> None:
        self._session = session
        self.state = MemberState.READY

    def lose(self, cause: str) -> None:
        """Every journey with an attempt here hears it at once."""
        self.state = MemberState.LOST
        if self._session is not None:
            self._session.close(cause)
        for mailbox in self._mailboxes.values():
            mailbox.put(self.ref, WorkerLost(cause))

    def hear(self, report: Report) -> None:
        self.report = report
        draining = report.state is WorkerState.DRAINING
        self.state = MemberState.DRAINING if draining else MemberState.READY

    def deliver(self, attempt_id: AttemptId, news: WorkerEvent) -> None:
        """To the journey that holds this attempt; nobody waits for other attempts any more."""
        mailbox = self._mailboxes.get(attempt_id)
        if mailbox is not None:
            mailbox.put(self.ref, news)

    def attach(self, attempt_id: AttemptId, mailbox: Mailbox) -> None:
        """What this worker says of the attempt goes there."""
        self._mailboxes[attempt_id] = mailbox

    def detach(self, attempt_id: AttemptId) -> None:
        self._mailboxes.pop(attempt_id, None)

    def send(self, message: Message) -> None:
        """Raises SessionClosed when the worker is lost."""
        if self._session is None:
            raise SessionClosed(f"{self.ref} is not connected")
        self._session.send(message)

    def cancel(self, attempt_id: AttemptId) -> None:
        """Nobody waits for this attempt any more. A lost worker need not hear it."""
        if self.state is not MemberState.LOST:
            try:
                self.send(Cancel(attempt_id=attempt_id))
            except SessionClosed:
                return  # it is being lost at this moment
