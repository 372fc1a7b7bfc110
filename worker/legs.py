"""The legs that a worker serves: what is done to them, and what is told of them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable

from engine.engine import Engine, Progress
from engine.errors import GrammarsBusy, SequenceError
from engine.sequence import Sequence, Status
from kv_transfer.endpoint import Endpoint
from wire.identity import Leg, WorkerRef
from wire.messages import Destination, Failed, Kept, Output, Share, Step, Submit
from wire.sampling import SamplingParams
from worker.config import WorkerConfig
from worker.incoming import Incoming
from worker.leaving import Call
from worker.outgoing import Outgoing
from worker.reports import Reports
from worker.tickets import Outbox, Ticket

log = logging.getLogger(__name__)


class Legs:
    """Those that run here, those that are handed to others, and those that come from them.

    `settle()` is called before somebody changes a sequence: it waits for the step under way.
    """

    def __init__(
        self,
        me: WorkerRef,
        content: str,
        config: WorkerConfig,
        engine: Engine,
        endpoint: Endpoint,
        outbox: Outbox,
        call: Call,
        settle: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.outgoing = Outgoing(
            me, content, config, engine, endpoint, outbox, call, self._forget, clock
        )
        self.incoming = Incoming(content, config, engine, endpoint, outbox, self._adopted, clock)
        self.reports = Reports(engine, outbox, config.tpot_target_s, self.incoming.num_offers)
        self._engine = engine
        self._outbox = outbox
        self._settle = settle
        self._clock = clock
        self._tickets: dict[Leg, Ticket] = {}

    @property
    def num_handoffs(self) -> int:
        return len(self.outgoing) + len(self.incoming)

    def __len__(self) -> int:
        return len(self._tickets) + self.num_handoffs

    def submit(self, router_id: str, message: Submit) -> None:
        """Queue a leg; a repetition of one that is known here changes nothing."""
        leg = message.leg
        self.reports.hear(router_id, message.number)
        if leg in self._tickets or leg in self.outgoing or leg in self.incoming:
            return
        log.debug("leg %s was submitted by router %s", leg, router_id)
        ticket = Ticket.of(message, router_id, self._clock())
        if self.incoming.draining:
            self._fail(ticket, "queue", "this worker drains", retryable=True)
            return
        try:
            self._engine.add(ticket.sequence)
        except SequenceError as error:
            self._fail(ticket, "queue", str(error), retryable=False)
        except GrammarsBusy as error:
            self._fail(ticket, "queue", str(error), retryable=True)
        else:
            self._tickets[leg] = ticket

    def cancel(self, leg: Leg, cause: str = "cancelled") -> None:
        """End a leg in whatever state it is here; unknown legs are remembered as ended."""
        self._settle()
        self.incoming.cancel(leg, cause)
        ticket = self._tickets.get(leg)
        if ticket is None:
            return
        sequence = ticket.sequence
        if sequence.pinned:
            self.outgoing.cancel(ticket, cause)
        if not sequence.pinned:
            self._engine.drop(sequence)
        elif sequence.status is Status.RUNNING:
            self._engine.hold(sequence)
        self._forget(leg)

    def move(self, leg: Leg, destination: Destination) -> None:
        """Hand a sequence that decodes here to another worker."""
        self._settle()
        ticket = self._tickets.get(leg)
        if ticket is not None:
            self.outgoing.move(ticket, destination)

    def share(self, router_id: str, message: Share) -> None:
        """Copy cached blocks to another worker; a repetition of a known leg changes nothing."""
        leg = message.leg
        if leg in self._tickets or leg in self.outgoing:
            return
        params = SamplingParams(max_tokens=1)
        sequence = Sequence(leg, list(message.tokens), params, cache_salt=message.cache_salt)
        if not self._engine.try_hold_cached(sequence):
            kept = Kept(leg=leg, cause="no block of it is cached here any more")
            self._outbox.to_router(router_id, kept)
            return
        ticket = Ticket(sequence, router_id, len(sequence.tokens), self._clock(), prefilled=True)
        ticket.prefix_only, ticket.destination = True, message.destination
        self._tickets[leg] = ticket
        if sequence.status is Status.HELD:
            self.outgoing.share(ticket)

    def router_lost(self, router_id: str) -> None:
        """Nobody is left to hear of these legs."""
        self.reports.forget(router_id)
        self.incoming.router_lost(router_id)
        for leg, ticket in list(self._tickets.items()):
            if ticket.router_id == router_id:
                self.cancel(leg, f"router {router_id} is gone")

    def end_overdue(self, now: float) -> None:
        """The router watches the deadline too; this is for when it cannot."""
        for leg, ticket in list(self._tickets.items()):
            if ticket.deadline is not None and now >= ticket.deadline:
                self._settle()
                if leg not in self._tickets:
                    continue  # it has just ended
                stage = "decode" if ticket.prefilled else "prefill"
                self._fail(ticket, stage, "deadline passed", retryable=False)
                self.cancel(leg, "deadline passed")

    def started(self, sequence: Sequence, now: float) -> None:
        """It has blocks from now on."""
        ticket = self._tickets[sequence.leg]
        if ticket.started_at is None:
            ticket.started_at = now
        if ticket.prefix_only:
            self.outgoing.share(ticket)
        elif ticket.destination is not None and ticket.handoff is None:
            self.outgoing.open(ticket)

    def emit(self, progress: list[Progress]) -> None:
        """Tokens to the routers, one message each; blocks to the decode workers; cache events."""
        outputs: dict[str, list[Output]] = defaultdict(list)
        for made in progress:
            ticket = self._tickets[made.sequence.leg]
            if made.sampled is not None:
                outputs[ticket.router_id].append(ticket.take_output(made))
            self._after_step(ticket, made)
        for router_id, batch in outputs.items():
            self.reports.generated(len(batch))
            self._outbox.to_router(router_id, Step(outputs=tuple(batch)))
        for sequence in self._engine.followers.take_lost():
            self._fail_lost(sequence)
        self.reports.send_cache_events()
        self._outbox.flush()

    def _fail_lost(self, sequence: Sequence) -> None:
        """No worker can follow its grammar from here."""
        assert sequence.grammar is not None
        cause, invalid = str(sequence.grammar.error), sequence.grammar.to_blame
        ticket = self._tickets.get(sequence.leg)
        if ticket is not None:
            failed = Failed(
                leg=sequence.leg, stage="grammar", cause=cause, retryable=False, invalid=invalid
            )
            self._outbox.to_router(ticket.router_id, failed)
            self.cancel(sequence.leg, cause)

    def _after_step(self, ticket: Ticket, made: Progress) -> None:
        if made.sampled is not None and not ticket.prefilled:
            ticket.prefilled = True
            self.reports.prefilled(made.sequence)
            self._outbox.to_router(ticket.router_id, ticket.times(self._clock()))
        self.outgoing.progressed(ticket, made)
        if made.finish is not None:
            self._forget(made.sequence.leg)

    def _adopted(self, ticket: Ticket) -> None:
        self._tickets[ticket.sequence.leg] = ticket

    def _forget(self, leg: Leg) -> None:
        """The leg is not this worker's to serve any more; its transfer may still have to end."""
        self._tickets.pop(leg, None)
        self.incoming.ended(leg)

    def _fail(self, ticket: Ticket, stage: str, cause: str, *, retryable: bool) -> None:
        leg = ticket.sequence.leg
        failed = Failed(leg=leg, stage=stage, cause=cause, retryable=retryable)
        log.info("leg %s failed, %s: %s", leg, stage, cause)
        self._outbox.to_router(ticket.router_id, failed)
