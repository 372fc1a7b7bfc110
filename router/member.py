"""One incarnation of a worker, as this router knows it: its session, its load, its legs."""

from __future__ import annotations

import enum

from router.mailbox import Mailbox, News, WorkerLost
from router.placement import WorkerView
from runtime.session import Session, SessionClosed
from wire.identity import Leg, WorkerRef
from wire.messages import (
    Cancel,
    Handed,
    Link,
    Message,
    Released,
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

    def __init__(self, card: WorkerCard) -> None:
        self.card = card
        self.state = MemberState.JOINING
        self.report: Report | None = None
        self.links: dict[WorkerRef, Link] = {}
        self._session: Session | None = None
        self._mailboxes: dict[Leg, Mailbox] = {}
        self._tokens: dict[Leg, int] = {}

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
            if not isinstance(news, Handed | Released):
                self._tokens.pop(leg, None)  # the prompt is computed, or will not be
            mailbox.put(self.ref, news)

    def attach(self, leg: Leg, mailbox: Mailbox, num_tokens: int) -> None:
        """`num_tokens` of prompt are to be computed here, 0 on a destination."""
        self._mailboxes[leg] = mailbox
        if num_tokens:
            self._tokens[leg] = num_tokens

    def detach(self, leg: Leg) -> None:
        self._mailboxes.pop(leg, None)
        self._tokens.pop(leg, None)

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

    def view(self, num_hit_blocks: int) -> WorkerView:
        """What placement sees of it."""
        layout, report = self.card.layout, self.report
        return WorkerView(
            ref=self.ref,
            role=self.card.role,
            ready=self.state is MemberState.READY,
            content=self.card.content,
            layout=layout,
            transport=self.card.transport,
            capacity_tokens=min(self.card.max_model_len, self.card.num_blocks * layout.block_size),
            num_hit_tokens=num_hit_blocks * layout.block_size,
            reported_tokens=report.waiting_tokens if report else 0,
            reported_sequences=report.num_running + report.num_waiting if report else 0,
            placed_tokens=sum(self._tokens.values()),
            placed_sequences=len(self._mailboxes),
        )
