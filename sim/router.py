"""The simulated router's front: requests arrive, are judged, wait, and are sent to workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from router.placing.cost_model import Hits
from router.placing.ledger import Ledger, PromptHashes
from router.placing.placement_request import Placement, PlacementRequest, Slo, Split
from router.queueing.admission import Admission, Verdict
from router.queueing.fair_queue import Waiter
from sim.clock import Clock
from sim.request import Ride, Served
from sim.worker import Machine
from wire.identity import AttemptId, WorkerRef

MESSAGE_S = 0.5e-3

Choose = Callable[[PlacementRequest, Hits, float], Placement]


class Front:
    """`choose` places a request; without an admission it goes on at once."""

    def __init__(
        self,
        clock: Clock,
        ledger: Ledger,
        machines: Mapping[WorkerRef, Machine],
        choose: Choose,
        admission: Admission | None,
        split: Split,
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._machines = machines
        self._choose = choose
        self._admission = admission
        self._split = split
        self._waiting: dict[str, Ride] = {}
        self.num_refused = 0

    def arrive(self, attempt_id: AttemptId, served: Served) -> None:
        ride = self._ride(attempt_id, served)
        found = self._place(ride)
        if self._admission is None:
            self._submit(ride, found)
            return
        waiter = Waiter(
            key=str(attempt_id),
            tenant=served.arrival.tenant,
            work_s=found.prefill_s,
            arrived_s=self._clock.now,
            target_s=served.slo.ttft_s,
        )
        judged = self._admission.arrive(waiter, found, len(self._machines), self._clock.now)
        match judged.verdict:
            case Verdict.ADMIT:
                self._submit(ride, found)
            case Verdict.WAIT:
                self._waiting[waiter.key] = ride
            case Verdict.REFUSE:
                self._refuse(ride)

    def dispatch(self) -> None:
        """Something has changed at the workers: who waits may go on."""
        if self._admission is None:
            return
        while turn := self._admission.next(self._find, self._clock.now):
            ride = self._waiting.pop(turn.waiter.key)
            if turn.found is None or turn.judged.verdict is Verdict.REFUSE:
                self._refuse(ride)
            else:
                self._submit(ride, turn.found)

    def came(self, ride: Ride) -> None:
        """Its first token."""
        target_s, took_s = ride.served.slo.ttft_s, ride.served.ttft_s
        if self._admission is not None and target_s is not None and took_s is not None:
            self._admission.forecast.came(took_s <= target_s)

    def _ride(self, attempt_id: AttemptId, served: Served) -> Ride:
        arrival = served.arrival
        need = PlacementRequest(
            key=str(attempt_id),
            num_prompt_tokens=arrival.num_prompt,
            num_tokens=arrival.num_prompt + arrival.num_new,
            num_new_tokens=self._ledger.lengths.expected(arrival.tenant, 100_000),
            single_token=arrival.num_new == 1,
            slo=served.slo,
            split=self._split,
        )
        return Ride(attempt_id, served, need, arrival.tokens(), PromptHashes(b""))

    def _find(self, waiter: Waiter) -> Placement:
        return self._place(self._waiting[waiter.key])

    def _place(self, ride: Ride) -> Placement:
        """Where it would go now."""
        hits = self._ledger.hits(ride.tokens, ride.hashes)
        need = msgspec.structs.replace(ride.need, slo=self._left(ride.served))
        return self._choose(need, hits, self._clock.now)

    def _left(self, served: Served) -> Slo:
        """What is left of its targets, and has to be aimed at."""
        slo = served.slo
        if self._admission is None or slo.ttft_s is None:
            return slo
        left_s = served.arrival.at_s + slo.ttft_s - self._clock.now
        return Slo(self._admission.forecast.target(left_s), slo.tpot_s)

    def _refuse(self, ride: Ride) -> None:
        ride.served.refused_s = self._clock.now
        self.num_refused += 1

    def _submit(self, ride: Ride, placement: Placement) -> None:
        attempt_id, hits = ride.attempt_id, self._ledger.hits(ride.tokens, ride.hashes)
        ride.placement = ride.served.placement = placement
        self._ledger.placed(attempt_id, placement, ride.need, hits, self._clock.now)
        ride.number = self._ledger.submitted(placement.first, attempt_id)
        machine = self._machines[placement.first]
        self._clock.after(MESSAGE_S, lambda: machine.between_steps(lambda: machine.submit(ride)))
