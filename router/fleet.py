"""The workers of this router: they announce themselves, are called back, and may be lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from router.member import Member, MemberState
from router.placing.ledger import Ledger
from runtime.handoffs import HandoffBook
from runtime.session import Session, SessionClosed, open_session
from runtime.tls import MutualTls
from wire.identity import Role, WorkerRef
from wire.messages import (
    CacheEvents,
    Failed,
    Handed,
    Hello,
    Kept,
    Link,
    Message,
    Prefilled,
    Released,
    Report,
    Step,
    WantSnapshot,
    WorkerCard,
)

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
    ) -> None:
        self._router_id = router_id
        self._tls = tls
        self.model = model
        self._open_timeout_s = open_timeout_s
        self._members: dict[str, Member] = {}
        self._tasks: dict[WorkerRef, asyncio.Task[None]] = {}
        self.ledger = Ledger(router_id, index_max_entries)
        self.num_kept = 0
        """Handoffs of which nothing came, so that the first worker went on."""
        self.handoffs = HandoffBook()
        self._changed = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        self.on_room: Callable[[], None] = lambda: None
        """Called when a worker may have come to have less to do."""

    @property
    def ready(self) -> bool:
        """At least one worker can serve."""
        return any(member.state is MemberState.READY for member in self._members.values())

    @property
    def max_model_len(self) -> int | None:
        """What every worker that is ready is set to, and one at least has blocks for; None without
        workers. Whoever fails, another can take the sequence."""
        ready = (m.card for m in self._members.values() if m.state is MemberState.READY)
        shortest = min((card.max_model_len for card in ready), default=None)
        longest = self.ledger.table.longest
        return longest if longest is None or shortest is None else min(shortest, longest)

    def count(self) -> dict[tuple[str, Role, MemberState], int]:
        """Members by model, role and state, absent ones as 0."""
        counts = {(self.model, role, state): 0 for role in Role for state in MemberState}
        for member in self._members.values():
            counts[self.model, member.card.role, member.state] += 1
        return counts

    def members(self) -> list[Member]:
        """All that are there now."""
        return list(self._members.values())

    def links(self) -> list[tuple[WorkerRef, Link]]:
        """What every worker measured of its ways to others: (source, link)."""
        return [(m.ref, link) for m in self._members.values() for link in m.links.values()]

    def member(self, ref: WorkerRef) -> Member | None:
        """None when this incarnation is not there any more."""
        member = self._members.get(ref.worker_id)
        return member if member is not None and member.ref == ref else None

    def block_size(self, ref: WorkerRef) -> int:
        """In tokens; 0 of a worker that is not there any more."""
        member = self.member(ref)
        return 0 if member is None else member.card.layout.block_size

    async def wait_changed(self, timeout_s: float) -> None:
        """Until a worker joins, leaves or changes its state, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def join(self, card: WorkerCard) -> None:
        """Open a session to a worker that is new.

        One that is there already keeps its name: a worker that was born again is taken when the
        session with its former life has broken, and a late announcement of that life never is.
        Nor is one whose weights are others than those of the workers that are here.
        """
        known = self._members.get(card.ref.worker_id)
        if known is not None:
            if known.ref != card.ref:
                log.warning("%s announces itself while %s is here: not taken", card.ref, known.ref)
            return
        other = self._with_other_weights(card)
        if other is not None:
            log.warning(
                "worker %s at %s has other weights of model %r (%s) than %s at %s (%s): not taken",
                card.ref, card.address, self.model, card.model_hash,
                other.ref, other.address, other.model_hash,
            )  # fmt: skip
            return
        member = Member(card)
        self._members[card.ref.worker_id] = member
        self.ledger.add(card)
        self._tasks[member.ref] = asyncio.create_task(self._run(member), name=f"member {card.ref}")

    async def close(self) -> None:
        """Lose every worker."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _with_other_weights(self, card: WorkerCard) -> WorkerCard | None:
        cards = (member.card for member in self._members.values())
        return next((it for it in cards if it.model_hash != card.model_hash), None)

    async def _run(self, member: Member) -> None:
        """The life of one member."""
        cause = CLOSED
        try:
            session = await self._open(member)
            async for message in session.messages():
                self._take(member, message)
            cause = session.closed_because or "the session ended"
        except SessionClosed as error:
            cause = str(error)
        except Exception as error:
            cause = f"this router failed on its messages: {error!r}"
            log.exception("worker %s: %s", member.ref, cause)
        finally:
            self._lose(member, cause)
            del self._tasks[member.ref]

    async def _open(self, member: Member) -> Session:
        hello = Hello(caller_id=self._router_id)
        opened = await open_session(
            member.card.address, hello, timeout_s=self._open_timeout_s, tls=self._tls
        )
        if opened.card.ref != member.ref:
            opened.session.close("another incarnation answered")
            raise SessionClosed(f"{opened.card.ref} answered where {member.ref} was called")
        member.open(opened.session)
        self.ledger.set_ready(member.ref, True)
        opened.session.send(WantSnapshot())
        log.info("worker %s joined as %s", member.ref, member.card.role.value)
        self._announce_change()
        return opened.session

    def _take(self, member: Member, message: Message) -> None:
        match message:
            case Step(outputs=outputs):
                for output in outputs:
                    if output.finish is not None:
                        self.ledger.ended(member.ref, output.leg)
                        self.on_room()
                    member.deliver(output.leg, output)
            case Prefilled() | Handed() | Released() | Kept() | Failed():
                self._enter(member.ref, message)
                member.deliver(message.leg, message)
            case Report():
                before = member.state
                member.hear(message)
                self.ledger.hear(member.ref, message)
                self.on_room()
                if member.state is not before:
                    self.ledger.set_ready(member.ref, member.state is MemberState.READY)
                    self._announce_change()
            case Link():
                member.links[message.destination] = message
                self.ledger.measured(member.ref, message)
            case CacheEvents():
                if not self.ledger.cached(member.ref, message):
                    member.send(WantSnapshot())
            case _:
                raise SessionClosed(f"{member.ref} sent {type(message).__name__} to a router")

    def _enter(self, ref: WorkerRef, news: Prefilled | Handed | Released | Kept | Failed) -> None:
        """What became of a leg changes what its worker has to do."""
        self.on_room()
        match news:
            case Prefilled():
                self.ledger.prefilled(ref, news.leg)
            case Handed():
                self.handoffs.add(news.source, ref, news.moved)
                self.ledger.arrived(ref, news.leg)
            case Kept():
                self.num_kept += 1
                self.ledger.kept(ref, news.leg)
            case Released() | Failed():
                self.ledger.ended(ref, news.leg)

    def _lose(self, member: Member, cause: str) -> None:
        if member.state is MemberState.LOST:
            return
        level = logging.INFO if cause == CLOSED else logging.WARNING
        log.log(level, "worker %s is lost: %s", member.ref, cause)
        member.lose(cause)
        self.ledger.drop(member.ref)
        if self.member(member.ref) is member:
            del self._members[member.ref.worker_id]
        self._announce_change()

    def _announce_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self.on_change()
