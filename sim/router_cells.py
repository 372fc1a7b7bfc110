"""Cells: several routers, each with workers of its own, on one virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.placing.placement_request import Slo
from sim.clock import VirtualClock
from sim.request import RequestResult
from sim.router import RouterSettings
from sim.simulation import SETTLE_S, SimulatedCluster, WorkerPool
from sim.traces import Arrival
from sim.warm_up import NUM_WARM, after_warm_up


class RouterCells:
    """A site larger than one router serves: a balancer deals requests to the cells in turn.

    Every cell has the same pools. Cells share nothing but the clock.
    """

    def __init__(
        self, num_cells: int, pools: Sequence[WorkerPool], router: RouterSettings, seed: int = 0
    ) -> None:
        self.clock = VirtualClock()
        per_cell = sum(pool.num_workers for pool in pools)
        self.clusters = [
            SimulatedCluster(pools, router, seed + number * per_cell, self.clock)
            for number in range(num_cells)
        ]

    def run(
        self, arrivals: Sequence[Arrival], slo_of: Callable[[Arrival], Slo]
    ) -> list[RequestResult]:
        """Serve the requests behind a warm-up of every cell; their results, cell by cell.

        May be called once.
        """
        results: list[RequestResult] = []
        for number, cluster in enumerate(self.clusters):
            dealt = after_warm_up(arrivals[number :: len(self.clusters)])
            results += cluster.begin(dealt, slo_of)[NUM_WARM:]
        self.clock.run(self._go_on(list(self.clusters)))
        for cluster in self.clusters:
            cluster.settle(self.clock.now + SETTLE_S)
        return results

    @staticmethod
    def _go_on(serving: list[SimulatedCluster]) -> Callable[[], bool]:
        """Whether a cluster has requests that have not ended; asked before every event."""

        def go_on() -> bool:
            while serving and serving[-1].has_ended:
                serving.pop()
            return bool(serving)

        return go_on
