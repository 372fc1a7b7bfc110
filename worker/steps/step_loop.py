"""The step loop: the one thread that owns the engine and every attempt. Four verbs make a turn."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from engine.async_engine import AsyncEngine
from engine.engine import SequenceProgress
from engine.runner import OnLayer, Slice
from engine.schedule.role_policy import RolePolicy
from kv_transfer.device_thread import bind_thread
from kv_transfer.streams import Event
from wire.handoff import Abort, Commit, Grant, Handoff, Offer, Quiesced
from wire.identity import Role
from wire.reports import LinkReport, Report, WorkerState
from worker.steps.attempts import Attempts
from worker.steps.step_context import Peer, StepContext

TICK_S = 0.25
"""Interval at which deadlines are checked and the load is reported; also the longest idle wait."""
POLL_S = 0.0001
"""Pause between looks at a step that is computed, while handoffs from this worker are under way."""
VERIFY_S = 0.0005
"""Wait while nothing can run and blocks that have arrived are being verified."""
STARVED_S = 0.002
"""Wait while sequences are queued but none can run before a handoff or a transfer ends."""

log = logging.getLogger(__name__)


class StepLoop:
    """Everything that happens to the engine happens here, one thing after the other.

    Other threads queue callbacks by `call`; messages of this thread go to the outbox.

    `start` drives the loop in a thread of its own. A test or a simulation drives it by hand with
    `turn()`, which neither sleeps nor waits; on a virtual clock with `plan()` at the beginning of a
    step and `compute(slices)` at its end, queueing by `call` whatever happens between the two.
    `idle_s` says for how long the loop may be left alone.
    """

    def __init__(self, context: StepContext, on_crash: Callable[[Exception], None]) -> None:
        self.engine = engine = context.engine
        self.call = context.call
        """Runs a callback in the loop's thread, between two steps. Thread-safe."""
        self.attempts = Attempts(context, self._settle)
        self.source_handoffs = self.attempts.source_handoffs
        self.destination_handoffs = self.attempts.destination_handoffs
        self._on_crash = on_crash
        self._reports = self.attempts.reports
        self._outbox = context.outbox
        self._clock = context.clock
        self._device = context.device
        self._calls = context.calls
        if engine.grammar_sequences.grammars is not None:  # a compiled grammar needs a turn
            engine.grammar_sequences.grammars.on_ready = lambda: self.call(lambda: None)
        if isinstance(engine, AsyncEngine):
            engine.before_wait = self._until_over
        self._next_tick = 0.0
        self._began_at = 0.0
        """When the present step began, or when the step before it ended, if that was later."""
        self._stopping = False
        self.num_turns = 0
        """Turns that have begun; of an idle loop too, more than one each TICK_S."""
        self._stepped = True
        self._on_idle: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._drive, name="steps", daemon=True)

    def start(self) -> None:
        """Drive the loop in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current turn."""
        self.call(self._stop)
        self._thread.join(timeout=30)
        self.engine.memory.close()

    def _drive(self) -> None:
        try:
            bind_thread(self._device)
            while not self._stopping:
                self.num_turns += 1
                self.turn(self.idle_s)
        except Exception as error:  # a worker whose engine is broken must not look alive
            log.exception("the step loop ended")
            self._on_crash(error)

    def turn(self, timeout_s: float = 0.0) -> bool:
        """One turn of the loop; waits up to `timeout_s` for work. True when a step ran."""
        return self.compute(self.plan(timeout_s))

    def plan(self, timeout_s: float = 0.0) -> list[Slice]:
        """The first half of a turn: run callbacks, admit sequences, schedule a step."""
        if not self.engine.may_go_ahead:
            self._settle()
        self._admit(timeout_s)
        slices = self.engine.schedule()
        if not self.engine.in_flight:
            self._began_at = self._clock()
        return slices

    def compute(self, slices: list[Slice]) -> bool:
        """The second half of a turn: run a step, and send what it made. True when a step ran."""
        self._emit(self.engine.run(slices, self._while_computing(slices)))
        if self._on_idle is not None and self.idle:
            self._on_idle()
            self._on_idle = None
        self._stepped = bool(slices) or self.engine.in_flight
        return self._stepped

    def _settle(self) -> None:
        """Wait for the step under way, and send what it made, before its sequences are changed."""
        if self.engine.in_flight:
            self._emit(self.engine.settle())

    def _emit(self, progress: list[SequenceProgress]) -> None:
        """Note how long the landed step took, and send what it made."""
        if self.engine.completed_slices:
            now = self._clock()
            self.engine.observe(now - self._began_at)
            self._reports.observe(now - self._began_at, now)
            self._began_at = now
        self.attempts.emit(progress)

    def receive(self, message: Handoff, peer: Peer) -> None:
        """Pass a message of a peer worker to the end of the handoff that it is for."""
        match message:
            case Offer() | Commit() | Quiesced() | Abort(by_source=True):
                self.destination_handoffs.receive(message, peer)
            case _:
                self.source_handoffs.receive(message, peer)

    def on_peer_message(self, message: Handoff, peer: Peer) -> None:
        """Receive a message of a peer worker, in any thread. A grant does not wait for the end of a
        step."""
        if isinstance(message, Grant):
            self._calls.put_prompt(lambda: self.receive(message, peer))
        else:
            self.call(lambda: self.receive(message, peer))

    def run_prompt(self, timeout_s: float = 0.0) -> None:
        """Run what need not wait for the end of a step: grants, and commits behind last writes. In
        the loop's thread, at any time; waits up to `timeout_s` for the first."""
        if self._calls.run_prompt(timeout_s):
            self._outbox.flush()

    def drain(self, on_idle: Callable[[], object]) -> None:
        """Take no new attempts; `on_idle` is called when all that are under way have ended."""
        self.destination_handoffs.draining = True
        self._on_idle = on_idle
        self._report()
        self._outbox.flush()

    @property
    def idle(self) -> bool:
        return not len(self.attempts)

    @property
    def next_tick_s(self) -> float:
        """When deadlines are checked and the load is reported next; a time of the loop's clock."""
        return self._next_tick

    @property
    def last_report(self) -> Report | None:
        """Thread-safe; None before the first."""
        return self._reports.last

    def send_snapshot(self, router_id: str, links: tuple[LinkReport, ...]) -> None:
        """Send links, the whole cache index and the load to a router that has just connected."""
        self._reports.send_snapshot(router_id, links, self.load())

    def set_role(self, role: Role) -> None:
        """Serve in this role from the next step on. What runs here goes on."""
        policy = self.engine.policy
        if isinstance(policy, RolePolicy) and policy.role is not role:
            log.info("role: %s", role.value)
            policy.role = role
            self._report()

    def load(self) -> Report:
        state = WorkerState.DRAINING if self.destination_handoffs.draining else WorkerState.READY
        return self._reports.load(state, self.attempts.num_handoffs)

    def repeat_report(self) -> None:
        """A tick of an idle loop to which nothing has happened since its last report."""
        assert self.last_report is not None
        self._next_tick = self._clock() + TICK_S
        self._outbox.to_routers(self.last_report)
        self._outbox.flush()

    def _admit(self, timeout_s: float) -> None:
        """Run callbacks, check deadlines, and start sequences that now fit."""
        self._calls.run_all(timeout_s)
        now = self._clock()
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            self.source_handoffs.tick(now)
            self.destination_handoffs.tick(now)
            self.attempts.end_overdue(now)
            self._report()
        if self.destination_handoffs.verifying:
            self.destination_handoffs.poll()
        for sequence in self.engine.admit():
            self.attempts.started(sequence, now)
        self._outbox.flush()

    def _until_over(self, step: Event) -> None:
        """While a step is computed, send the commits of handoffs whose last write ends."""
        while len(self.source_handoffs) and not step.query():
            self.run_prompt(POLL_S)

    def _while_computing(self, slices: list[Slice]) -> OnLayer | None:
        """A callback within a step, which only sends blocks and commits: the engine's state must
        not change. Engines that wait for a device send commits meanwhile, see _until_over."""
        send_layers = self.source_handoffs.by_layers(slices)
        waits = isinstance(self.engine, AsyncEngine) or not len(self.source_handoffs)
        if send_layers is None and waits:
            return None

        def on_layer(num_layers: int) -> None:
            self.run_prompt()
            if send_layers is not None:
                send_layers(num_layers)

        return on_layer

    @property
    def idle_s(self) -> float:
        """Seconds in which no turn is needed unless something is called."""
        if self.engine.in_flight or (self._stepped and self.engine.running):
            return 0.0
        if self.destination_handoffs.verifying:
            return VERIFY_S
        if self.engine.busy:
            return STARVED_S
        return max(0.001, min(TICK_S, self._next_tick - self._clock()))

    def _report(self) -> None:
        self._outbox.to_routers(self.load())

    def _stop(self) -> None:
        self._stopping = True
