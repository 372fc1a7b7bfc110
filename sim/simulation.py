"""A cluster on a virtual clock: the router's own ledger, placement and admission, real engines.

What is modelled is the time that steps and transfers take, and messages that take MESSAGE_S.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import msgspec

from engine.sequence import Sequence, Status
from router.placing.cost_model import Hits, exposed_s
from router.placing.ledger import Ledger
from router.placing.placement_request import Placement, PlacementRequest, Slo, Split
from router.queueing.admission import Admission
from sim.clock import Clock
from sim.machine import LAYOUT, Device
from sim.request import Ride, Served
from sim.router import MESSAGE_S, Choose, Front
from sim.traces import Arrival
from sim.worker import ROUTER, Machine
from wire.identity import AttemptId, Role, WorkerRef
from wire.reports import CacheEvents

REPORT_EVERY_S = 0.25


class Cluster:
    """`serve` runs a trace to its end. Requests are placed as the router does it, or `in_turn`."""

    def __init__(
        self,
        num_prefill: int,
        num_decode: int,
        device: Device,
        tpot_s: float | None,
        admission: Admission | None = None,
        split: Split = Split.AUTO,
        *,
        in_turn: bool = False,
    ) -> None:
        self.clock = Clock()
        self.ledger = Ledger(ROUTER, 1_000_000)
        self._device = device
        self._num_open = 0
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
        choose = _in_turn(self.machines) if in_turn else self._best
        self._front = Front(self.clock, self.ledger, self.machines, choose, admission, split)

    def serve(self, arrivals: list[Arrival], slo_of: Callable[[Arrival], Slo]) -> list[Served]:
        served = [Served(arrival, slo_of(arrival)) for arrival in arrivals]
        self._num_open = len(served)
        for number, each in enumerate(served):
            attempt_id = AttemptId(f"r{number}")
            self.clock.after(
                each.arrival.at_s,
                lambda attempt_id=attempt_id, each=each: self._front.arrive(attempt_id, each),  # type: ignore[misc]
            )
        self._report_all()
        self.clock.run(self._goes_on)
        return served

    def started(self, machine: Machine, ride: Ride) -> None:
        """Its prefill begins: its destination is asked for room, and then others."""
        assert ride.placement is not None
        destination = ride.placement.destination
        while destination is not None and ride.granted is None:
            ride.asked.add(destination)
            blocks = self.machines[destination].try_grant(ride)
            if blocks is not None:
                ride.granted = (blocks, destination)
                return
            self.ledger.ended(destination, ride.attempt_id)
            hits = self.ledger.hits(ride.tokens, ride.hashes)
            need = msgspec.structs.replace(ride.need, avoid=frozenset(ride.asked))
            destination = self.ledger.another_destination(need, hits, machine.ref, self.clock.now)
            if destination is not None:
                self.ledger.expect(destination, ride.attempt_id, need)
        if ride.placement.destination is not None:
            self.ledger.kept(machine.ref, ride.attempt_id)

    def first_token(self, machine: Machine, ride: Ride, sequence: Sequence) -> None:
        ride.served.first_s = self.clock.now + MESSAGE_S
        self.ledger.prefilled(machine.ref, ride.attempt_id)
        self._front.came(ride)
        self._front.dispatch()
        if ride.granted is None:
            return
        blocks, destination = ride.granted
        target = self.machines[destination]
        if sequence.status is Status.FINISHED:
            target.between_steps(lambda: target.engine.pool.release(blocks))
            target.num_granted -= 1
            return
        ride.served.split = True
        machine.engine.hold(sequence)
        del machine.rides[ride.attempt_id]
        tokens = list(sequence.tokens)

        def moved() -> None:
            machine.between_steps(lambda: machine.engine.drop(sequence))
            self.ledger.ended(machine.ref, ride.attempt_id)
            target.between_steps(lambda: target.adopt(ride, tokens, blocks))

        self.clock.after(self._move_s(ride.served.arrival.num_prompt, sequence.num_cached), moved)

    def finished(self, ride: Ride) -> None:
        served = ride.served
        served.last_s = self.clock.now + MESSAGE_S
        self._num_open -= 1
        assert served.first_s is not None
        assert ride.placement is not None
        decode_s = served.last_s - served.first_s
        self.ledger.answered(served.arrival.tenant, served.arrival.num_new, decode_s)
        for ref in {ride.placement.first, *ride.asked}:
            self.ledger.ended(ref, ride.attempt_id)
        self._front.dispatch()

    def _goes_on(self) -> bool:
        return self._num_open > self._front.num_refused

    def _best(self, need: PlacementRequest, hits: Hits, now: float) -> Placement:
        found = self.ledger.place(need, hits, now)
        assert isinstance(found, Placement), found
        return found

    def _move_s(self, num_prompt: int, num_cached: int) -> float:
        device = self._device
        prefill_s = device.prefill_s(num_prompt - num_cached)
        num_bytes = num_prompt * LAYOUT.token_bytes
        return exposed_s(num_bytes, prefill_s, device.latency_s, device.bytes_per_s)

    def _report_all(self) -> None:
        for machine in self.machines.values():
            machine.report()
        self._front.dispatch()
        if self._goes_on():
            self.clock.after(REPORT_EVERY_S, self._report_all)


def _in_turn(machines: dict[WorkerRef, Machine]) -> Choose:
    """Pairs in turn, whatever they have to do: round robin."""
    turn = count()
    firsts = [ref for ref, machine in machines.items() if machine.role is Role.PREFILL]
    others = [ref for ref, machine in machines.items() if machine.role is Role.DECODE]

    def choose(need: PlacementRequest, hits: Hits, now: float) -> Placement:
        number = next(turn)
        destination = None if need.single_token else others[number % len(others)]
        return Placement(firsts[number % len(firsts)], destination)

    return choose
