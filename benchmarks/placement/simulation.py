"""A cluster on a virtual clock: the router's own ledger, placement and admission, real engines.

What is modelled is the time that steps and transfers take, and messages that take MESSAGE_S.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import msgspec

from benchmarks.placement.machine import LAYOUT, Device, Stopwatch, make_engine
from benchmarks.placement.traces import Arrival
from engine.engine import Progress
from engine.policy import Room
from engine.sequence import Sequence, Status
from router.placing.cost_model import Hits, exposed_s
from router.placing.ledger import Ledger, PromptHashes
from router.placing.placement import Need, Placement, Slo, Split
from router.queueing.admission import Admission, Judgement, Verdict
from router.queueing.fair_queue import Waiter
from wire.identity import Leg, ProcessRef, Role, WorkerRef
from wire.messages import CacheEvents, WorkerCard, WorkerState
from wire.sampling import SamplingParams
from worker.calibration import Calibration, load_of

MESSAGE_S = 0.5e-3
REPORT_EVERY_S = 0.25
LEARN_EVERY_S = 0.03
"""Of virtual time; enough, and quicker to simulate."""
ROUTER = "router"


@dataclass(slots=True)
class Served:
    """One request, as its client sees it."""

    arrival: Arrival
    slo: Slo
    first_s: float | None = None
    last_s: float | None = None
    refused_s: float | None = None
    placement: Placement | None = None
    split: bool = False
    cached: int = 0

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_s is None else self.first_s - self.arrival.at_s

    @property
    def tpot_s(self) -> float | None:
        if self.first_s is None or self.last_s is None:
            return None
        return (self.last_s - self.first_s) / max(1, self.arrival.num_new - 1)

    @property
    def good(self) -> bool:
        """Complete, and within both targets."""
        ttft_s, tpot_s, slo = self.ttft_s, self.tpot_s, self.slo
        if ttft_s is None or tpot_s is None:
            return False
        return (slo.ttft_s is None or ttft_s <= slo.ttft_s) and (
            slo.tpot_s is None or tpot_s <= slo.tpot_s
        )


@dataclass(slots=True)
class _Ride:
    """A request on its way."""

    leg: Leg
    served: Served
    need: Need
    tokens: list[int]
    hashes: PromptHashes
    placement: Placement
    number: int = 0
    granted: tuple[list[int], Machine] | None = None
    asked: set[WorkerRef] = field(default_factory=set)


Choose = Callable[[Need, Hits, float], Placement]


class Machine:
    """One worker."""

    def __init__(
        self, cluster: Cluster, role: Role, number: int, device: Device, tpot_s: float | None
    ) -> None:
        self.ref = WorkerRef(f"{role.value}-{number}", 1)
        self.role = role
        self.engine = make_engine(role, device, tpot_s)
        self.rides: dict[Leg, _Ride] = {}
        self.num_granted = 0
        self.busy_s = 0.0
        self._cluster = cluster
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

    def submit(self, ride: _Ride) -> None:
        sampling = SamplingParams(max_tokens=ride.served.arrival.num_new, ignore_eos=True)
        sequence = Sequence(ride.leg, ride.tokens, sampling, tenant=ride.served.arrival.tenant)
        self._heard = max(self._heard, ride.number)
        self.rides[ride.leg] = ride
        self.engine.add(sequence)

    def report(self) -> None:
        report = load_of(
            self.engine, WorkerState.READY, 0, {ROUTER: self._heard}, self._calibration
        )
        self._cluster.ledger.hear(self.ref, report)

    def try_grant(self, ride: _Ride) -> list[int] | None:
        """Blocks for a prompt, as worker.incoming does it."""
        if self.engine.waiting:
            return None
        pool = self.engine.pool
        hashes = ride.hashes.of(ride.tokens, LAYOUT.block_size)
        held = pool.acquire_prefix(hashes)
        num_missing = LAYOUT.num_blocks(len(ride.tokens)) - len(held)
        room = Room(pool.num_free, len(self.engine.running) + self.num_granted)
        pages = None
        if self.engine.policy.admits(room, num_missing):
            pages = pool.try_allocate(num_missing)
        if pages is None:
            pool.release(held)
            return None
        self.num_granted += 1
        return held + pages

    def adopt(self, ride: _Ride, tokens: list[int], blocks: list[int]) -> None:
        sampling = SamplingParams(max_tokens=ride.served.arrival.num_new, ignore_eos=True)
        num_prompt = ride.served.arrival.num_prompt
        sequence = Sequence(
            ride.leg, tokens, sampling, num_prompt=num_prompt, tenant=ride.served.arrival.tenant
        )
        sequence.blocks, sequence.num_computed = blocks, len(tokens) - 1
        self.num_granted -= 1
        self.rides[ride.leg] = ride
        self.engine.adopt(sequence)
        self._cluster.ledger.arrived(self.ref, ride.leg)

    def _begin_step(self) -> None:
        for sequence in self.engine.admit():
            self._cluster.started(self, self.rides[sequence.leg])
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
            self._calibration.observe(slices, seconds, self._cluster.now)
            for made in progress:
                self._progressed(made)
            self._tell_cache()
            inbox, self._inbox = self._inbox, []
            for work in inbox:
                work()
            self._begin_step()

        self._cluster.after(seconds, end)

    def _progressed(self, made: Progress) -> None:
        if made.sampled is None:
            return
        sequence = made.sequence
        ride = self.rides[sequence.leg]
        if sequence.num_output == 1:
            ride.served.cached = sequence.num_cached
            self._cluster.first_token(self, ride, sequence)
        if made.finish is not None:
            del self.rides[sequence.leg]
            self._cluster.finished(ride)

    def _tell_cache(self) -> None:
        stored, removed = self.engine.pool.take_events()
        if stored or removed:
            self._event_number += 1
            events = CacheEvents(
                number=self._event_number, stored=tuple(stored), removed=tuple(removed)
            )
            self._cluster.ledger.cached(self.ref, events)


class Cluster:
    """`choose` places a request; `serve` runs a trace to its end."""

    def __init__(
        self,
        num_prefill: int,
        num_decode: int,
        device: Device,
        tpot_s: float | None,
        admission: Admission | None = None,
        split: Split = Split.AUTO,
    ) -> None:
        self.now = 0.0
        self._split = split
        self.ledger = Ledger(ROUTER, 1_000_000)
        self._device = device
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._num_open = 0
        self.admission = admission
        self._waiting: dict[str, _Ride] = {}
        roles = [Role.PREFILL] * num_prefill + [Role.DECODE] * num_decode
        self.machines = {
            machine.ref: machine
            for number, role in enumerate(roles)
            for machine in [Machine(self, role, number, device, tpot_s)]
        }
        for machine in self.machines.values():
            self.ledger.add(machine.card)
            self.ledger.cached(machine.ref, CacheEvents(number=0, snapshot=True))
            self.ledger.set_ready(machine.ref, True)

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), work))

    def serve(
        self, arrivals: list[Arrival], slo_of: Callable[[Arrival], Slo], choose: Choose
    ) -> list[Served]:
        served = [Served(arrival, slo_of(arrival)) for arrival in arrivals]
        self._num_open = len(served)
        for number, each in enumerate(served):
            leg = Leg(f"r{number}")
            self.after(
                each.arrival.at_s - self.now,
                lambda leg=leg, each=each: self._arrive(leg, each, choose),  # type: ignore[misc]
            )
        self._report_all()
        while self._num_open and self._events:
            self.now, _, work = heapq.heappop(self._events)
            work()
        return served

    def started(self, machine: Machine, ride: _Ride) -> None:
        """Its prefill begins: its destination is asked for room, and then others."""
        destination = ride.placement.destination
        while destination is not None and ride.granted is None:
            ride.asked.add(destination)
            target = self.machines[destination]
            blocks = target.try_grant(ride)
            if blocks is not None:
                ride.granted = (blocks, target)
                return
            self.ledger.ended(destination, ride.leg)
            hits = self.ledger.hits(ride.tokens, ride.hashes)
            need = Need(
                key=ride.need.key,
                num_prompt_tokens=ride.need.num_prompt_tokens,
                num_tokens=ride.need.num_tokens,
                num_new_tokens=ride.need.num_new_tokens,
                slo=ride.need.slo,
                split=self._split,
                avoid=frozenset(ride.asked),
            )
            destination = self.ledger.another_destination(need, hits, machine.ref, self.now)
            if destination is not None:
                self.ledger.expect(destination, ride.leg, need)
        if ride.placement.destination is not None:
            self.ledger.kept(machine.ref, ride.leg)

    def first_token(self, machine: Machine, ride: _Ride, sequence: Sequence) -> None:
        ride.served.first_s = self.now + MESSAGE_S
        self.ledger.prefilled(machine.ref, ride.leg)
        self._dispatch()
        if ride.granted is None or sequence.status is Status.FINISHED:
            if ride.granted is not None:
                blocks, target = ride.granted
                target.between_steps(lambda: target.engine.pool.release(blocks))
                target.num_granted -= 1
            return
        ride.served.split = True
        blocks, target = ride.granted
        machine.engine.hold(sequence)
        del machine.rides[ride.leg]
        device = self._device
        uncached = ride.served.arrival.num_prompt - sequence.num_cached
        num_bytes = ride.served.arrival.num_prompt * LAYOUT.token_bytes
        moved_s = exposed_s(
            num_bytes, device.prefill_s(uncached), device.latency_s, device.bytes_per_s
        )
        tokens = list(sequence.tokens)
        self.after(moved_s, lambda: self._moved(machine, sequence, ride, target, tokens, blocks))

    def finished(self, ride: _Ride) -> None:
        ride.served.last_s = self.now + MESSAGE_S
        self._num_open -= 1
        served = ride.served
        assert served.first_s is not None
        assert served.last_s is not None
        self.ledger.answered(
            served.arrival.tenant, served.arrival.num_new, served.last_s - served.first_s
        )
        for ref in {ride.placement.first, *ride.asked}:
            self.ledger.ended(ref, ride.leg)
        self._dispatch()

    def _moved(
        self,
        source: Machine,
        sequence: Sequence,
        ride: _Ride,
        target: Machine,
        tokens: list[int],
        blocks: list[int],
    ) -> None:
        source.between_steps(lambda: source.engine.drop(sequence))
        self.ledger.ended(source.ref, ride.leg)
        target.between_steps(lambda: target.adopt(ride, tokens, blocks))

    def _arrive(self, leg: Leg, served: Served, choose: Choose) -> None:
        arrival = served.arrival
        tokens, hashes = arrival.tokens(), PromptHashes(b"")
        need = Need(
            key=str(leg),
            num_prompt_tokens=arrival.num_prompt,
            num_tokens=arrival.num_prompt + arrival.num_new,
            num_new_tokens=self.ledger.lengths.expected(arrival.tenant, 100_000),
            single_token=arrival.num_new == 1,
            slo=served.slo,
            split=self._split,
        )
        hits = self.ledger.hits(tokens, hashes)
        placement = choose(need, hits, self.now)
        ride = _Ride(leg, served, need, tokens, hashes, placement)
        if self.admission is None:
            self._submit(ride, hits)
            return
        waiter = Waiter(
            key=str(leg),
            tenant=arrival.tenant,
            work_s=placement.prefill_s,
            deadline_s=None if served.slo.ttft_s is None else self.now + served.slo.ttft_s,
        )
        self._waiting[waiter.key] = ride
        num_workers = len(self.machines)
        judged = self.admission.arrive(waiter, served.slo, placement, num_workers, self.now)
        self._settle(waiter, judged, hits)
        gone = self.admission.overflow()
        if gone is not None:
            self._refuse(gone)

    def _settle(self, waiter: Waiter, judged: Judgement, hits: Hits) -> None:
        if judged.verdict is Verdict.ADMIT:
            self._submit(self._waiting.pop(waiter.key), hits)
        elif judged.verdict is Verdict.REFUSE:
            self._refuse(waiter)

    def _refuse(self, waiter: Waiter) -> None:
        self._waiting.pop(waiter.key).served.refused_s = self.now
        self._num_open -= 1

    def _dispatch(self) -> None:
        """Something has changed at the workers: who waits may go on."""
        if self.admission is None:
            return
        for late in self.admission.too_late(self.now):
            self._refuse(late)
        while (waiter := self.admission.queue.first()) is not None:
            ride = self._waiting[waiter.key]
            hits = self.ledger.hits(ride.tokens, ride.hashes)
            left = ride.served.slo
            if waiter.deadline_s is not None:
                left = Slo(max(1e-3, waiter.deadline_s - self.now), left.tpot_s)
            found = self.ledger.place(msgspec.structs.replace(ride.need, slo=left), hits, self.now)
            assert isinstance(found, Placement)
            ride.placement = found
            judged = self.admission.again(waiter, left, found, self.now)
            self._settle(waiter, judged, hits)
            if judged.verdict is Verdict.WAIT:
                return

    def _submit(self, ride: _Ride, hits: Hits) -> None:
        leg, placement, need = ride.leg, ride.placement, ride.need
        ride.served.placement = placement
        self.ledger.placed(leg, placement, need, hits, self.now)
        ride.number = self.ledger.submitted(placement.first, leg)
        machine = self.machines[placement.first]
        self.after(MESSAGE_S, lambda: machine.between_steps(lambda: machine.submit(ride)))

    def _report_all(self) -> None:
        for machine in self.machines.values():
            machine.report()
        self._dispatch()
        if self._num_open:
            self.after(REPORT_EVERY_S, self._report_all)


def ours(cluster: Cluster) -> Choose:
    """The router's placement."""

    def choose(need: Need, hits: Hits, now: float) -> Placement:
        found = cluster.ledger.place(need, hits, now)
        assert isinstance(found, Placement), found
        return found

    return choose


def round_robin(cluster: Cluster) -> Choose:
    """Pairs in turn."""
    turn = count()
    firsts = [ref for ref, machine in cluster.machines.items() if machine.role is Role.PREFILL]
    others = [ref for ref, machine in cluster.machines.items() if machine.role is Role.DECODE]

    def choose(need: Need, hits: Hits, now: float) -> Placement:
        number = next(turn)
        destination = None if need.single_token else others[number % len(others)]
        return Placement(firsts[number % len(firsts)], destination)

    return choose
