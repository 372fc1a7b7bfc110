"""A simulated worker: the production step loop, turned by events of the virtual clock."""

from __future__ import annotations

from collections.abc import Callable

import decode_worker.scheduler
import prefill_worker.scheduler
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.schedule.role_policy import RolePolicy
from engine.schedule.step_times import StepTimes
from sim.clock import LocalTime, VirtualClock
from sim.endpoint import VirtualEndpoint
from sim.machine import MachineModel
from sim.network import Network, VirtualOutbox
from sim.runner import VirtualRunner
from sim.steady_steps import SteadySteps
from wire.handoff import Handoff
from wire.identity import ProcessRef, Role, WorkerRef
from wire.messages import Cancel, Message, Move, SetRole, Submit, WorkerCard
from worker.config import RunnerKind, WorkerConfig
from worker.fitted_config import fit
from worker.steps.step_context import Peer, StepContext
from worker.steps.step_loop import TICK_S, StepLoop

ROUTER = "router"
CONTENT = "simulated"
SETTINGS = WorkerConfig(model=CONTENT, runner=RunnerKind.ARITHMETIC)
MakePolicy = Callable[[Role, WorkerConfig, StepTimes], RolePolicy]


class SimulatedWorker:
    """One worker. Its loop takes a turn when the last step has ended, or a message wakes it."""

    def __init__(
        self,
        ref: WorkerRef,
        role: Role,
        machine: MachineModel,
        settings: WorkerConfig,
        clock: VirtualClock,
        network: Network,
        seed: int,
        policy_maker: MakePolicy,
    ) -> None:
        self.ref = ref
        self.alive = True
        self._clock = clock
        self._time = LocalTime(clock.now)
        self._runner = VirtualRunner(machine, self._time, seed)
        times = StepTimes()
        policy = policy_maker(role, settings, times)
        self.engine = Engine(self._runner, BlockPool(machine.num_blocks), policy)
        self._endpoint = VirtualEndpoint(machine, clock, self._time, self._prompt_call)
        outbox = VirtualOutbox(ref, machine, self._time, network)
        context = StepContext(
            ref, CONTENT, settings, self.engine, self._endpoint, outbox, lambda: self._time.now
        )
        self._calls = context.calls
        self.loop = StepLoop(context, _raise)
        learns = times if settings.tpot_target_s is not None else None
        self._steady = SteadySteps(self.loop, context, self._runner, self._time, learns)
        self.card = WorkerCard(
            ref=ref,
            role=role,
            address="",
            model=CONTENT,
            model_hash=CONTENT,
            layout=machine.layout,
            content=CONTENT,
            num_blocks=machine.num_blocks,
            max_model_len=machine.max_model_len,
            policies=policy.traits_by_role,
            transport=self._endpoint.transport_name,
            process=ProcessRef("simulated", seed),
            device=machine.device,
        )
        self._turn_number = 0
        self._waits = True
        self._rests = False
        """True when it is idle, and nothing has happened since its last report."""

    @property
    def idle(self) -> bool:
        """True when it has nothing to do, or is dead."""
        return not self.alive or (self.loop.idle and not self.engine.busy)

    @property
    def busy_s(self) -> float:
        """Duration of all its steps so far."""
        return self._runner.busy_s

    def start(self) -> None:
        """The first turn, which also tells the router of the worker's load."""
        self.call(lambda: self.loop.send_snapshot(ROUTER, ()))

    def kill(self) -> None:
        """End now; nobody is told of the step under way."""
        self._steady.interrupt(self._clock.now)
        self.alive = False

    def call(self, work: Callable[[], None]) -> None:
        """Do the work between two steps."""
        self.loop.call(work)
        self._wake()

    def receive(self, message: Message) -> None:
        attempts = self.loop.attempts
        match message:
            case Submit():
                self.call(lambda: attempts.submit(ROUTER, message))
            case Cancel():
                self.call(lambda: attempts.cancel(message.attempt_id))
            case Move():
                self.call(lambda: attempts.move(message.attempt_id, message.destination))
            case SetRole():
                self.call(lambda: self.loop.set_role(message.role))
            case _:
                raise TypeError(f"{type(message).__name__} for a worker")

    def receive_handoff(self, message: Handoff, peer: Peer) -> None:
        self.loop.on_peer_message(message, peer)
        self._prompt_call()

    def destination_lost(self, peer: Peer, cause: str) -> None:
        self.call(lambda: self.loop.source_handoffs.peer_lost(peer, cause))
        self._endpoint.disconnect(peer.link, lambda: None)

    def source_lost(self, link: str, cause: str) -> None:
        """No write of a lost source is under way any more, so that its blocks are free at once."""
        handoffs = self.loop.destination_handoffs
        self.call(lambda: handoffs.source_fenced(handoffs.source_lost(link, cause)))

    def _prompt_call(self) -> None:
        """Grants and ends of writes do not wait for the end of a step, nor do the writes and the
        commits that follow them."""
        self._interrupt()
        if self._clock.now < self._time.now:
            with self._time.within_step(self._clock.now):
                self._calls.run_prompt()
        self._wake()

    def _wake(self) -> None:
        """A loop that waits takes its turn now, one that computes when its step is over."""
        self._rests = False
        if self._waits:
            self._take_turn_at(max(self._clock.now, self._time.now), waits=False)
        else:
            self._interrupt()

    def _interrupt(self) -> None:
        """Planned steps end with the one under way."""
        if self._steady.interrupt(self._clock.now):
            self._take_turn_at(self._time.now, waits=False)

    def _take_turn_at(self, time_s: float, *, waits: bool) -> None:
        """`waits` is true when a message may wake the loop before that time."""
        self._waits = waits
        self._turn_number += 1
        number = self._turn_number

        def turn() -> None:
            if number == self._turn_number and self.alive:
                self._turn()

        self._clock.at(time_s, turn)

    def _turn(self) -> None:
        now, steady = self._clock.now, self._steady
        if steady.extend():
            self._take_turn_at(steady.end_s, waits=False)
            return
        steady.carry_out(now)
        self._time.now = now
        if self._rests:
            self.loop.repeat_report()
        else:
            stepped = self.loop.turn()
            self._rests = self.idle and not stepped and self.loop.next_tick_s == now + TICK_S
        if steady.begin():
            self._take_turn_at(steady.end_s, waits=False)
            return
        idle_s = self.loop.idle_s
        self._take_turn_at(self._time.now + idle_s, waits=idle_s > 0)


def make_policy(role: Role, settings: WorkerConfig, times: StepTimes) -> RolePolicy:
    """The policies of a worker that learns what its steps take in `times`."""
    rooms = {Role.PREFILL: prefill_worker.scheduler, Role.DECODE: decode_worker.scheduler}
    fitted = {each: fit(settings, each, gpu_bytes=None) for each in Role}
    return RolePolicy({each: rooms[each].make_policy(fitted[each], times) for each in Role}, role)


def _raise(error: Exception) -> None:
    raise error
