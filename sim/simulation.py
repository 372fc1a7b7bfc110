"""A cluster in virtual time: built from pools of workers, given requests, run to their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from router.placing.cost_model import Hits
from router.placing.ledger import Ledger
from router.placing.placement_request import Placement, PlacementRequest, Refusal, Slo
from router.roles.decision import RoleChange
from sim.clock import VirtualClock
from sim.machine import MachineModel
from sim.network import Network
from sim.request import RequestResult
from sim.router import RouterSettings, SimulatedRouter
from sim.traces import Arrival
from sim.worker import ROUTER, SETTINGS, MakePolicy, SimulatedWorker, make_policy
from wire.identity import Role, WorkerRef
from worker.config import WorkerConfig

INDEX_ENTRIES = 1_000_000
SETTLE_S = 0.5
DRAINED_S = 0.01
"""Time in which a drained worker's last messages arrive, before it ends."""
NO_TARGETS = Slo()


class WorkerPool(msgspec.Struct, frozen=True):
    """Workers of one role, machine and settings; see `worker.config` for the settings."""

    role: Role
    num_workers: int
    machine: MachineModel = MachineModel()
    settings: WorkerConfig = SETTINGS
    make_policy: MakePolicy = make_policy
    """Schedules steps; others than production's are baselines for comparisons."""


class SimulatedCluster:
    """`workers` have the names prefill-0, prefill-1, decode-2, … in the order of the pools.

    After `run` they tell how long they were busy, and their block pools may be checked.
    """

    def __init__(
        self,
        pools: Sequence[WorkerPool],
        router: RouterSettings = RouterSettings(),  # noqa: B008, it is frozen
        seed: int = 0,
        clock: VirtualClock | None = None,
    ) -> None:
        """`clock` is shared with other clusters; without one this cluster has its own."""
        self.clock = clock or VirtualClock()
        self.ledger = Ledger(ROUTER, INDEX_ENTRIES)
        self._network = Network(self.clock)
        self._seed = seed
        self._num_begun = 0
        self.workers: dict[WorkerRef, SimulatedWorker] = {}
        for pool in pools:
            for _ in range(pool.num_workers):
                self._add(pool)
        cards = [worker.card for worker in self.workers.values()]
        choose = self._place if router.choose is None else router.choose(cards)
        self._router = SimulatedRouter(self.clock, self.ledger, self._network, choose, router)
        self._network.router = self._router
        for worker in self.workers.values():
            worker.start()

    @property
    def role_changes(self) -> list[tuple[float, RoleChange]]:
        """Changes of roles so far, each with its time."""
        return self._router.role_changes

    def _place(self, need: PlacementRequest, hits: Hits, now: float) -> Placement | Refusal:
        return self.ledger.place(need, hits, now)

    def add(self, pool: WorkerPool, at_s: float) -> None:
        """Let a pool's workers join at that time."""

        def join() -> None:
            for _ in range(pool.num_workers):
                self._add(pool).start()

        self.clock.at(at_s, join)

    def _add(self, pool: WorkerPool) -> SimulatedWorker:
        number = len(self.workers)
        ref = WorkerRef(f"{pool.role.value}-{number}", 1)
        seed = self._seed + number
        worker = SimulatedWorker(
            ref,
            pool.role,
            pool.machine,
            pool.settings,
            self.clock,
            self._network,
            seed,
            pool.make_policy,
        )
        self.workers[ref] = self._network.workers[ref] = worker
        self.ledger.add(worker.card)
        self.ledger.set_ready(ref, True)
        return worker

    @property
    def router(self) -> SimulatedRouter:
        """The router, which knows queues and targets met."""
        return self._router

    def drain(self, ref: WorkerRef, on_left: Callable[[], None] = lambda: None) -> None:
        """Drain a worker from now on: it takes no new attempts, and leaves when all have ended."""
        worker = self.workers[ref]

        def leave() -> None:
            if worker.alive:
                worker.kill()
                self._network.kill(ref)
                on_left()

        worker.call(lambda: worker.loop.drain(lambda: self.clock.after(DRAINED_S, leave)))

    def kill(self, ref: WorkerRef, at_s: float) -> None:
        """Kill a worker at that time; its sequences and its cache are lost."""

        def kill() -> None:
            if self.workers[ref].alive:
                self.workers[ref].kill()
                self._network.kill(ref)

        self.clock.at(at_s, kill)

    def run(
        self, arrivals: Sequence[Arrival], slo_of: Callable[[Arrival], Slo] = lambda _: NO_TARGETS
    ) -> list[RequestResult]:
        """Serve the requests, each at its time; returns when all have ended, in their order.

        `slo_of` gives a request's targets. May be called once.
        """
        results = self.begin(arrivals, slo_of)
        self.clock.run(lambda: not self.has_ended)
        self.settle(self.clock.now + SETTLE_S)
        return results

    def begin(
        self, arrivals: Sequence[Arrival], slo_of: Callable[[Arrival], Slo]
    ) -> list[RequestResult]:
        """Let requests arrive while the clock runs; their results fill up. May be called once."""
        results = [RequestResult(arrival, slo_of(arrival)) for arrival in arrivals]
        for number, result in enumerate(results):
            arrive = partial(self._router.arrive, f"r{number}", result)
            self.clock.at(result.arrival.at_s, arrive)
        self._num_begun = len(results)
        return results

    @property
    def has_ended(self) -> bool:
        """Whether all requests have ended."""
        return self._router.num_ended >= self._num_begun

    def settle(self, until_s: float) -> None:
        """Run until messages about ended requests have arrived and all blocks are free."""
        workers = self.workers.values()
        self.clock.run(
            lambda: self.clock.now < until_s or not all(worker.idle for worker in workers)
        )
