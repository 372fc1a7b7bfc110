"""One incarnation of a worker, as this router knows it: its session, its load, its legs."""

from __future__ import annotations

import enum

from router.mailbox import Mailbox, News, WorkerLost
from router.placing.ledger import Ledger
from runtime.session import Session, SessionClosed
from wire.identity import Leg, WorkerRef
from wire.messages import (
    Cancel,
    Link,
    Message,
    Report,
    WorkerCard,
    WorkerState,
)


class MemberState(enum.Enum):
    JOINING = "joining"  # announced, its session is being opened
    READY = "ready"
    DRAINING = "draining"  # finishes what it has, takes nothing new
    LOST = "lost"  # for ever: the next incarnation is another member


class Member:
    """Owned by the fleet; journeys hold legs on it."""

    def __init__(self, card: WorkerCard, ledger: Ledger) -> None:
        self.card = card
        self.ledger = ledger
        """Of its revision."""
        self.state = MemberState.JOINING
        self.report: Report | None = None
        self.links: dict[WorkerRef, Link] = {}
        self._session: Session | None = None
        self._mailboxes: dict[Leg, Mailbox] = {}

    @property
    def ref(self) -> WorkerRef:
        return self.card.ref

    def open(self, session: Session) -> None:
        self._session = session
        self.state = MemberState.READY

    def lose(self, cause: str) -> None:
        """Every journey with a leg here hears it at once."""
        self.state = MemberState.LOST
        if self._session is not None:
            self._session.close(cause)
        for mailbox in self._mailboxes.values():
            mailbox.put(self.ref, WorkerLost(cause))

    def hear(self, report: Report) -> None:
        self.report = report
        draining = report.state is WorkerState.DRAINING
        self.state = MemberState.DRAINING if draining else MemberState.READY

    def deliver(self, leg: Leg, news: News) -> None:
        """To the journey that holds this leg; nobody waits for other legs any more."""
        mailbox = self._mailboxes.get(leg)
        if mailbox is not None:
            mailbox.put(self.ref, news)

    def attach(self, leg: Leg, mailbox: Mailbox) -> None:
        """What this worker says of the leg goes there."""
        self._mailboxes[leg] = mailbox

    def detach(self, leg: Leg) -> None:
        self._mailboxes.pop(leg, None)

    def send(self, message: Message) -> None:
        """Raises SessionClosed when the worker is lost."""
        if self._session is None:
            raise SessionClosed(f"{self.ref} is not connected")
        self._session.send(message)

    def cancel(self, leg: Leg) -> None:
        """Nobody waits for this leg any more. A lost worker need not hear it."""
        if self.state is not MemberState.LOST:
            try:
                self.send(Cancel(leg=leg))
            except SessionClosed:
                return  # it is being lost at this moment
