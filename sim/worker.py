"""A simulated worker: the real engine, driven by a virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from engine.engine import SequenceProgress
from engine.schedule.policy import FreeCapacity
from engine.sequence import Sequence
from router.placing.ledger import Ledger
from sim.clock import Clock
from sim.machine import LAYOUT, Device, Stopwatch, make_engine
from sim.request import Ride
from wire.identity import AttemptId, ProcessRef, Role, WorkerRef
from wire.messages import WorkerCard
from wire.reports import CacheEvents, WorkerState
from wire.sampling import SamplingParams
from wire.traits import RequestTraits
from worker.steps.calibration import Calibration, load_of

LEARN_EVERY_S = 0.03
"""Of virtual time; enough, and quicker to simulate."""
ROUTER = "router"


class Router(Protocol):
    """Whom a worker tells what it did."""

    clock: Clock
    ledger: Ledger

    def started(self, machine: Machine, ride: Ride) -> None:
        """Its prompt is begun."""

    def first_token(self, machine: Machine, ride: Ride, sequence: Sequence) -> None: ...

    def finished(self, ride: Ride) -> None: ...


class Machine:
    """One worker."""

    def __init__(
        self, router: Router, role: Role, number: int, device: Device, tpot_s: float | None
    ) -> None:
        self.ref = WorkerRef(f"{role.value}-{number}", 1)
        self.role = role
        self.engine = make_engine(role, device, tpot_s)
        self.rides: dict[AttemptId, Ride] = {}
        self.num_granted = 0
        self.busy_s = 0.0
        self._router = router
        self._watch = Stopwatch(device, seed=number)
        self._calibration = Calibration(tpot_s, LEARN_EVERY_S)
        self._inbox: list[Callable[[], None]] = []
        self._stepping = False
        self._heard = 0
        self._event_number = 0

    @property
    def card(self) -> WorkerCard:
        return WorkerCard(
            ref=self.ref,
            role=self.role,
            address="",
            model="simulated",
            model_hash="simulated",
            layout=LAYOUT,
            content="simulated",
            num_blocks=self.engine.pool.num_blocks,
            max_model_len=self.engine.runner.max_model_len,
            policy=self.engine.policy.traits,
            transport="memory",
            process=ProcessRef("host", 1),
        )

    def between_steps(self, work: Callable[[], None]) -> None:
        """Now, or when the step that is under way is over."""
        if self._stepping:
            self._inbox.append(work)
        else:
            work()
            self._begin_step()

    def submit(self, ride: Ride) -> None:
        sampling = SamplingParams(max_tokens=ride.served.arrival.num_new, ignore_eos=True)
        traits = RequestTraits(tenant=ride.served.arrival.tenant)
        sequence = Sequence(ride.attempt_id, ride.tokens, sampling, traits=traits)
        self._heard = max(self._heard, ride.number)
        self.rides[ride.attempt_id] = ride
        self.engine.add(sequence)

    def report(self) -> None:
        report = load_of(
            self.engine, WorkerState.READY, 0, {ROUTER: self._heard}, self._calibration
        )
        self._router.ledger.hear(self.ref, report)

    def try_grant(self, ride: Ride) -> list[int] | None:
        """Blocks for a prompt, as worker.steps.destination_handoffs does it."""
        if self.engine.waiting:
            return None
        pool = self.engine.pool
        hashes = ride.hashes.of(ride.tokens, LAYOUT.block_size)
        held = pool.acquire_prefix(hashes)
        num_missing = LAYOUT.num_blocks(len(ride.tokens)) - len(held)
        room = FreeCapacity(pool.num_free, len(self.engine.running) + self.num_granted)
        pages = None
        if self.engine.policy.admits(room, num_missing):
            pages = pool.try_allocate(num_missing)
        if pages is None:
            pool.release(held)
            return None
        self.num_granted += 1
        return held + pages

    def adopt(self, ride: Ride, tokens: list[int], blocks: list[int]) -> None:
        sampling = SamplingParams(max_tokens=ride.served.arrival.num_new, ignore_eos=True)
        num_prompt = ride.served.arrival.num_prompt
        sequence = Sequence(
            ride.attempt_id,
            tokens,
            sampling,
            num_prompt=num_prompt,
            traits=RequestTraits(tenant=ride.served.arrival.tenant),
        )
        sequence.blocks, sequence.num_computed = blocks, len(tokens) - 1
        self.num_granted -= 1
        self.rides[ride.attempt_id] = ride
        self.engine.adopt(sequence)
        self._router.ledger.arrived(self.ref, ride.attempt_id)

    def _begin_step(self) -> None:
        for sequence in self.engine.admit():
            self._router.started(self, self.rides[sequence.attempt_id])
        slices = self.engine.schedule()
        if not slices:
            return
        self._stepping = True
        seconds = self._watch.seconds(slices)
        self.busy_s += seconds

        def end() -> None:
            self._stepping = False
            progress = self.engine.run(slices)
            self.engine.policy.observe(slices, seconds)
            self._calibration.observe(slices, seconds, self._router.clock.now)
            for made in progress:
                self._progressed(made)
            self._tell_cache()
            inbox, self._inbox = self._inbox, []
            for work in inbox:
                work()
            self._begin_step()

        self._router.clock.after(seconds, end)

    def _progressed(self, made: SequenceProgress) -> None:
        if made.sampled is None:
            return
        sequence = made.sequence
        ride = self.rides[sequence.attempt_id]
        if sequence.num_output == 1:
            ride.served.cached = sequence.num_cached
            self._router.first_token(self, ride, sequence)
        if made.finish is not None:
            del self.rides[sequence.attempt_id]
            self._router.finished(ride)

    def _tell_cache(self) -> None:
        stored, removed = self.engine.pool.take_events()
        if stored or removed:
            self._event_number += 1
            events = CacheEvents(
                number=self._event_number, stored=tuple(stored), removed=tuple(removed)
            )
            self._router.ledger.cached(self.ref, events)
