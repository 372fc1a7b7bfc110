"""The workers of one model: membership, sessions, reports and losses.

During an upgrade there are workers of several revisions of the model's weights. Each revision has a
ledger with its load, prefix index and links. New requests are placed by the ledger of the serving
revision (see router.placing.revisions); requests that have begun stay with theirs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from router.fleet.member import Member, MemberState
from router.fleet.revision_ledgers import RevisionLedgers
from router.fleet.running_clock import RunningClock
from router.placing.ledger import Ledger
from router.placing.revisions import RevisionView
from runtime.handoffs import HandoffCounters
from runtime.session import Session, SessionClosed, open_session
from runtime.tls import MutualTls
from wire.identity import Role, WorkerRef
from wire.messages import (
    Failed,
    Handed,
    Hello,
    Kept,
    Message,
    Prefilled,
    Released,
    StepOutputs,
    WantSnapshot,
    WorkerCard,
)
from wire.reports import CacheEvents, LinkReport, Report

REJOIN_S = 10.0
"""Time in which workers rejoin after a standstill of the router: they announce themselves every
second, but one missed announcement takes 5 s to time out."""
CLOSED = "this router closed the session"
log = logging.getLogger("tandem.router.fleet")


class Fleet:
    """The workers of one model: membership, load and prefix index."""

    def __init__(
        self,
        router_id: str,
        model: str,
        *,
        open_timeout_s: float,
        index_max_entries: int,
        tls: MutualTls | None = None,
        tokenizer: str | None = None,
        clock: RunningClock | None = None,
    ) -> None:
        """`tokenizer` is the router's hash, see runtime.tokenizer_hash; None accepts every
        worker."""
        self.clock = clock or RunningClock()
        """Clock for everything that concerns this model."""
        self.router_id = router_id
        self._tls = tls
        self._tokenizer = tokenizer
        self.model = model
        self._open_timeout_s = open_timeout_s
        self._members: dict[str, Member] = {}
        self._tasks: dict[WorkerRef, asyncio.Task[None]] = {}
        self._ledgers = RevisionLedgers(router_id, model, index_max_entries)
        self.num_failed_handoffs = 0
        """Number of handoffs that failed, after which the first worker decoded."""
        self.handoffs = HandoffCounters()
        self._changed = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        self.on_capacity: Callable[[], None] = lambda: None
        """Called when a worker's load may have dropped."""

    @property
    def ledger(self) -> Ledger:
        """Ledger of the serving revision."""
        return self._ledgers.serving

    @property
    def ready(self) -> bool:
        """Whether at least one worker is ready."""
        return any(member.state is MemberState.READY for member in self._members.values())

    @property
    def max_model_len(self) -> int | None:
        """Longest sequence that every ready worker accepts and at least one has blocks for; None
        without workers.

        It is the minimum, so that a failover to any worker is possible.
        """
        ready = (m.card for m in self._members.values() if m.state is MemberState.READY)
        shortest = min((card.max_model_len for card in ready), default=None)
        longest = self.ledger.table.longest
        return longest if longest is None or shortest is None else min(shortest, longest)

    def count(self) -> dict[tuple[str, Role, MemberState], int]:
        """Number of members by model, role and state, zeros included."""
        counts = {(self.model, role, state): 0 for role in Role for state in MemberState}
        for member in self._members.values():
            counts[self.model, member.role, member.state] += 1
        return counts

    def revisions(self) -> list[RevisionView]:
        """The revisions that have workers, oldest first."""
        return self._ledgers.views()

    def members(self) -> list[Member]:
        """All current members."""
        return list(self._members.values())

    def links(self) -> list[tuple[WorkerRef, LinkReport]]:
        """Link reports of all workers, each with its source."""
        return [(m.ref, link) for m in self._members.values() for link in m.links.values()]

    def member(self, ref: WorkerRef) -> Member | None:
        """The member with this incarnation; None if it has gone."""
        member = self._members.get(ref.worker_id)
        return member if member is not None and member.ref == ref else None

    def block_size(self, ref: WorkerRef) -> int:
        """The worker's block size in tokens; 0 if it has gone."""
        member = self.member(ref)
        return 0 if member is None else member.card.layout.block_size

    @property
    def rejoin_wait_s(self) -> float:
        """Remaining time in which missing workers may rejoin after a standstill of this router."""
        since_s = self.clock.since_standstill_s()
        return 0.0 if since_s is None else max(0.0, REJOIN_S - since_s)

    async def wait_changed(self, timeout_s: float) -> None:
        """Wait until a worker joins, leaves or changes its state, at most for `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def join(self, card: WorkerCard) -> str | None:
        """Open a session to a new worker. Returns the reason for refusing it, or None.

        A worker that is a member keeps its id: its next incarnation is accepted once the session
        with the former one has ended, and late announcements of the former one are refused.
        """
        known = self._members.get(card.ref.worker_id)
        if known is not None:
            return None if known.ref == card.ref else taken_id(card, known.card)
        if None not in (self._tokenizer, card.tokenizer) and card.tokenizer != self._tokenizer:
            return (
                f"its tokenizer ({card.tokenizer}) is not this router's ({self._tokenizer}), which "
                f"would tokenize text unlike its model's training: start routers "
                f"of model {self.model!r} with the worker's model directory"
            )
        member = Member(card, self._ledgers.add(card))
        self._members[card.ref.worker_id] = member
        self._tasks[member.ref] = asyncio.create_task(self._run(member), name=f"member {card.ref}")
        self._update_revisions()
        return None

    async def close(self) -> None:
        """Close the sessions with all workers."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _update_revisions(self) -> None:
        if self._ledgers.update(self.clock.now()):
            self.on_capacity()
            self._announce_change()

    def _set_ready(self, member: Member, ready: bool) -> None:
        member.ledger.set_ready(member.ref, ready)
        self._ledgers.set_ready(member.ref, member.card.model_hash, ready)
        self._update_revisions()
        self._announce_change()

    async def _run(self, member: Member) -> None:
        """Run one member's session until it ends."""
        cause = CLOSED
        try:
            session = await self._open(member)
            async for message in session.messages():
                self._dispatch(member, message)
            cause = session.closed_because or "the session ended"
        except SessionClosed as error:
            cause = str(error)
        except Exception as error:
            cause = f"this router failed on its messages: {error!r}"
            log.exception("worker %s: %s", member.ref, cause)
        finally:
            self._remove(member, cause)
            del self._tasks[member.ref]

    async def _open(self, member: Member) -> Session:
        hello = Hello(caller_id=self.router_id)
        opened = await open_session(
            member.card.address, hello, timeout_s=self._open_timeout_s, tls=self._tls
        )
        if opened.card.ref != member.ref:
            opened.session.close("another incarnation answered")
            raise SessionClosed(f"{opened.card.ref} answered where {member.ref} was called")
        member.open(opened.session)
        opened.session.send(WantSnapshot())
        log.info("worker %s joined as %s", member.ref, member.card.role.value)
        self._set_ready(member, True)
        return opened.session

    def _dispatch(self, member: Member, message: Message) -> None:
        match message:
            case StepOutputs(outputs=outputs):
                for output in outputs:
                    if output.finish is not None:
                        member.ledger.ended(member.ref, output.attempt_id)
                        self.on_capacity()
                    member.deliver(output.attempt_id, output)
            case Prefilled() | Handed() | Released() | Kept() | Failed():
                self._update_ledger(member, message)
                member.deliver(message.attempt_id, message)
            case Report():
                before = member.state
                member.on_report(message)
                member.ledger.on_report(member.ref, message)
                self.on_capacity()
                if member.state is not before:
                    self._set_ready(member, member.state is MemberState.READY)
                elif self._ledgers.several:
                    self._update_revisions()  # the revision's first report may qualify it to serve
            case LinkReport():
                member.links[message.destination] = message
                member.ledger.measured(member.ref, message)
            case CacheEvents():
                if not member.ledger.cached(member.ref, message):
                    member.send(WantSnapshot())
            case _:
                raise SessionClosed(f"{member.ref} sent {type(message).__name__} to a router")

    def _update_ledger(
        self, member: Member, event: Prefilled | Handed | Released | Kept | Failed
    ) -> None:
        """Update the ledger for an event of an attempt."""
        self.on_capacity()
        ref, ledger = member.ref, member.ledger
        match event:
            case Prefilled():
                ledger.prefilled(ref, event.attempt_id)
            case Handed():
                self.handoffs.add(event.source, ref, event.moved)
                ledger.arrived(ref, event.attempt_id)
            case Kept():
                self.num_failed_handoffs += 1
                ledger.kept(ref, event.attempt_id)
            case Released() | Failed():
                ledger.ended(ref, event.attempt_id)

    def _remove(self, member: Member, cause: str) -> None:
        if member.state is MemberState.LOST:
            return
        level = logging.INFO if cause == CLOSED else logging.WARNING
        log.log(level, "worker %s is lost: %s", member.ref, cause)
        member.lose(cause)
        member.ledger.drop(member.ref)
        if self.member(member.ref) is member:
            del self._members[member.ref.worker_id]
        self._ledgers.remove(member.ref, member.card.model_hash)
        self._update_revisions()
        self._announce_change()

    def _announce_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self.on_change()


def taken_id(card: WorkerCard, other: WorkerCard) -> str:
    """The reason for refusing a worker whose id is in use."""
    return (
        f"another worker with the id {card.ref.worker_id!r} is a member: {other.ref} of model "
        f"{other.model!r} at {other.address}: stop that one, or start this one with another "
        "worker_id; a previous incarnation of this worker is removed within about 15 s"
    )
