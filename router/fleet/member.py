"""One incarnation of a worker: its session, its reports, and the attempts on it."""

from __future__ import annotations

import enum

from router.fleet.worker_events import Listener, WorkerEvent, WorkerLost
from router.placing.ledger import Ledger
from runtime.session import Session, SessionClosed
from wire.identity import AttemptId, Role, WorkerRef
from wire.messages import Cancel, Message, WorkerCard
from wire.reports import LinkReport, Report, WorkerState


class MemberState(enum.Enum):
    JOINING = "joining"  # announced; its session is being opened
    READY = "ready"
    DRAINING = "draining"  # finishes its requests, accepts no new ones
    LOST = "lost"  # final: the next incarnation is another member


class Member:
    """A worker of the fleet. Requests attach a listener for each attempt on it."""

    def __init__(self, card: WorkerCard, ledger: Ledger) -> None:
        self.card = card
        self.ledger = ledger
        """Ledger of the worker's revision."""
        self.state = MemberState.JOINING
        self.report: Report | None = None
        self.links: dict[WorkerRef, LinkReport] = {}
        self._session: Session | None = None
        self._listeners: dict[AttemptId, Listener] = {}

    @property
    def ref(self) -> WorkerRef:
        return self.card.ref

    @property
    def role(self) -> Role:
        """The role that it last reported, or else began in."""
        told = None if self.report is None else self.report.role
        return self.card.role if told is None else told

    def open(self, session: Session) -> None:
        self._session = session
        self.state = MemberState.READY

    def lose(self, cause: str) -> None:
        """End the session, and report the loss to every attempt on this worker."""
        self.state = MemberState.LOST
        if self._session is not None:
            self._session.close(cause)
        for listener in list(self._listeners.values()):
            listener(self.ref, WorkerLost(cause))

    def on_report(self, report: Report) -> None:
        self.report = report
        draining = report.state is WorkerState.DRAINING
        self.state = MemberState.DRAINING if draining else MemberState.READY

    def deliver(self, attempt_id: AttemptId, event: WorkerEvent) -> None:
        """Pass an event to the attempt's listener; events of detached attempts are dropped."""
        listener = self._listeners.get(attempt_id)
        if listener is not None:
            listener(self.card.ref, event)

    def attach(self, attempt_id: AttemptId, listener: Listener) -> None:
        """Call the listener with the worker's events of this attempt, and with its loss."""
        self._listeners[attempt_id] = listener

    def detach(self, attempt_id: AttemptId) -> None:
        self._listeners.pop(attempt_id, None)

    def send(self, message: Message) -> None:
        """Send a message. Raises SessionClosed if the worker is lost."""
        if self._session is None:
            raise SessionClosed(f"{self.ref} is not connected")
        self._session.send(message)

    def cancel(self, attempt_id: AttemptId) -> None:
        """Tell the worker to abort the attempt, unless it is lost."""
        if self.state is not MemberState.LOST:
            try:
                self.send(Cancel(attempt_id=attempt_id))
            except SessionClosed:
                return  # the session ends at this moment
