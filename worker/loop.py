"""The step loop: the one thread that owns the engine and every leg. Four verbs make a turn."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable

from engine.engine import Engine, Progress
from engine.errors import GrammarsBusy, SequenceError
from engine.runner import OnLayer, Slice
from engine.sequence import Sequence, Status
from kv_transfer.endpoint import Endpoint
from wire.handoff import Abort, Commit, Grant, Handoff, Offer, Quiesced
from wire.identity import Leg, WorkerRef
from wire.messages import (
    Destination,
    Failed,
    Kept,
    Link,
    Output,
    Report,
    Share,
    Step,
    Submit,
    WorkerState,
)
from wire.sampling import SamplingParams
from worker.config import WorkerConfig
from worker.incoming import Incoming
from worker.outgoing import Outgoing
from worker.reports import Reports
from worker.tickets import Outbox, Peer, Ticket

TICK_S = 0.25
"""How often deadlines are looked at and a quiet worker reports; also the longest idle wait."""
STARVED_S = 0.002
"""Pause when sequences wait but none can run until a handoff or a transfer ends."""

log = logging.getLogger(__name__)


class StepLoop:
    """Everything that happens to the engine happens here, one thing after the other.

    Other threads hand in work by `call`; what this thread has to say goes to the outbox.
    """

    def __init__(
        self,
        me: WorkerRef,
        content: str,
        config: WorkerConfig,
        engine: Engine,
        endpoint: Endpoint,
        outbox: Outbox,
        on_crash: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self._on_crash = on_crash
        self.outgoing = Outgoing(
            me, content, config, engine, endpoint, outbox, self.call, self._forget, clock
        )
        self.incoming = Incoming(content, config, engine, endpoint, outbox, self._adopted, clock)
        self._outbox = outbox
        self._clock = clock
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        if engine.followers.grammars is not None:  # one that is ready is worth a turn
            engine.followers.grammars.on_ready = lambda: self.call(lambda: None)
        self._grants: queue.SimpleQueue[tuple[Grant, Peer]] = queue.SimpleQueue()
        self._tickets: dict[Leg, Ticket] = {}
        self._reports = Reports(engine, outbox, config.tpot_target_s, self.incoming.num_offers)
        self._next_tick = 0.0
        self._began_at = 0.0
        """When the step that is computed now became the only one."""
        self._stopping = False
        self._stepped = True
        self._on_idle: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._drive, name="steps", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current turn."""
        self.call(self._stop)
        self._thread.join(timeout=30)
        self.engine.memory.close()

    def call(self, work: Callable[[], None]) -> None:
        """Run `work` in the loop's thread, between two steps. Safe from any thread."""
        self._calls.put(work)

    def _drive(self) -> None:
        try:
            while not self._stopping:
                self.turn(self._patience())
        except Exception as error:  # a worker whose engine is broken must not look alive
            log.exception("the step loop ended")
            self._on_crash(error)

    def turn(self, patience_s: float = 0.0) -> bool:
        """One turn of the loop; waits up to `patience_s` for work. True when a step ran."""
        if not self.engine.may_go_ahead:
            self._settle()
        self._admit(patience_s)
        slices = self.engine.schedule()
        if not self.engine.under_way:
            self._began_at = self._clock()
        self._tell(self.engine.run(slices, self._while_computing(slices)))
        if self._on_idle is not None and self.idle:
            self._on_idle()
            self._on_idle = None
        self._stepped = bool(slices) or self.engine.under_way
        return self._stepped

    def _settle(self) -> None:
        """What is under way is over, and told, before somebody changes its sequences."""
        if self.engine.under_way:
            self._tell(self.engine.settle())

    def _tell(self, progress: list[Progress]) -> None:
        """How long the step took that is over, to the policy, and what it made, to everybody."""
        if self.engine.landed:
            now = self._clock()
            self.engine.observe(now - self._began_at)
            self._reports.observe(now - self._began_at, now)
            self._began_at = now
        self._emit(progress)

    def submit(self, router_id: str, message: Submit) -> None:
        """Queue a leg; a repetition of one that is known here changes nothing."""
        leg = message.leg
        self._reports.hear(router_id, message.number)
        if leg in self._tickets or leg in self.outgoing or leg in self.incoming:
            return
        log.debug("leg %s was submitted by router %s", leg, router_id)
        ticket = Ticket.of(message, router_id, self._clock())
        if self.incoming.draining:
            self._fail(ticket, "queue", "this worker drains", retryable=True)
            return
        try:
            self.engine.add(ticket.sequence)
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
            self.engine.drop(sequence)
        elif sequence.status is Status.RUNNING:
            self.engine.hold(sequence)
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
        if not self.engine.try_hold_cached(sequence):
            kept = Kept(leg=leg, cause="no block of it is cached here any more")
            self._outbox.to_router(router_id, kept)
            return
        ticket = Ticket(sequence, router_id, len(sequence.tokens), self._clock(), prefilled=True)
        ticket.prefix_only, ticket.destination = True, message.destination
        self._tickets[leg] = ticket
        if sequence.status is Status.HELD:
            self.outgoing.share(ticket)

    def receive(self, message: Handoff, peer: Peer) -> None:
        """A message of a peer worker; each kind belongs to one of the two ends."""
        match message:
            case Offer() | Commit() | Quiesced() | Abort(by_source=True):
                self.incoming.receive(message, peer)
            case _:
                self.outgoing.receive(message, peer)

    def hear(self, message: Handoff, peer: Peer) -> None:
        """The same from any thread. A grant does not wait for the end of a step."""
        if isinstance(message, Grant):
            self._grants.put((message, peer))
            self.call(self._take_grants)
        else:
            self.call(lambda: self.receive(message, peer))

    def router_lost(self, router_id: str) -> None:
        """Nobody is left to hear of these legs."""
        self._reports.forget(router_id)
        self.incoming.router_lost(router_id)
        for leg, ticket in list(self._tickets.items()):
            if ticket.router_id == router_id:
                self.cancel(leg, f"router {router_id} is gone")

    def drain(self, on_idle: Callable[[], object]) -> None:
        """Take no new legs; those under way go on, and `on_idle` is called when none is left."""
        self.incoming.draining = True
        self._on_idle = on_idle
        self._report()
        self._outbox.flush()

    @property
    def idle(self) -> bool:
        return not (self._tickets or len(self.outgoing) or len(self.incoming))

    @property
    def last_report(self) -> Report | None:
        """Safe from any thread; None before the first."""
        return self._reports.last

    def send_snapshot(self, router_id: str, links: tuple[Link, ...]) -> None:
        """The whole cache index, the load and the links, for a router that knows nothing yet."""
        self._reports.send_snapshot(router_id, links, self.load())

    def load(self) -> Report:
        state = WorkerState.DRAINING if self.incoming.draining else WorkerState.READY
        return self._reports.load(state, len(self.outgoing) + len(self.incoming))

    def _admit(self, patience_s: float) -> None:
        """Take in what was called, look at deadlines, and start sequences that now fit."""
        self._take_calls(patience_s)
        now = self._clock()
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            self.outgoing.tick(now)
            self.incoming.tick(now)
            self._end_overdue(now)
            self._report()
        for sequence in self.engine.admit():
            self._started(self._tickets[sequence.leg], now)
        self._outbox.flush()

    def _take_calls(self, patience_s: float) -> None:
        try:
            work = self._calls.get(timeout=patience_s) if patience_s else self._calls.get_nowait()
            while True:
                work()
                work = self._calls.get_nowait()
        except queue.Empty:
            return

    def _take_grants(self) -> None:
        while not self._grants.empty():
            self.receive(*self._grants.get())

    def _while_computing(self, slices: list[Slice]) -> OnLayer | None:
        """Only what changes nothing in the engine is done within a step: blocks leave."""
        leave = self.outgoing.by_layers(slices)
        if leave is None:
            return None

        def on_layer(num_layers: int) -> None:
            self._take_grants()
            leave(num_layers)

        return on_layer

    def _patience(self) -> float:
        if self.engine.under_way or (self._stepped and self.engine.running):
            return 0.0
        if self.engine.busy:
            return STARVED_S
        return max(0.001, min(TICK_S, self._next_tick - self._clock()))

    def _end_overdue(self, now: float) -> None:
        """The router watches the deadline too; this is for when it cannot."""
        for leg, ticket in list(self._tickets.items()):
            if ticket.deadline is not None and now >= ticket.deadline:
                self._settle()
                if leg not in self._tickets:
                    continue  # it has just ended
                stage = "decode" if ticket.prefilled else "prefill"
                self._fail(ticket, stage, "deadline passed", retryable=False)
                self.cancel(leg, "deadline passed")

    def _started(self, ticket: Ticket, now: float) -> None:
        if ticket.started_at is None:
            ticket.started_at = now
        if ticket.prefix_only:
            self.outgoing.share(ticket)
        elif ticket.destination is not None and ticket.handoff is None:
            self.outgoing.open(ticket)

    def _emit(self, progress: list[Progress]) -> None:
        """Tokens to the routers, one message each; blocks to the decode workers; cache events."""
        outputs: dict[str, list[Output]] = defaultdict(list)
        for made in progress:
            ticket = self._tickets[made.sequence.leg]
            if made.sampled is not None:
                outputs[ticket.router_id].append(ticket.take_output(made))
            self._after_step(ticket, made)
        for router_id, batch in outputs.items():
            self._reports.generated(len(batch))
            self._outbox.to_router(router_id, Step(outputs=tuple(batch)))
        for sequence in self.engine.followers.take_lost():
            self._fail_lost(sequence)
        self._reports.send_cache_events()
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
            self._reports.prefilled(made.sequence)
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

    def _report(self) -> None:
        self._outbox.to_routers(self.load())

    def _stop(self) -> None:
        self._stopping = True
