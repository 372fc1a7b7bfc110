"""Pools that grow and shrink in virtual time, by the production scaler's numbers."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from router.config import Roles
from router.placing.placement_request import Split
from router.roles.bottleneck import sharing_of
from router.roles.scaling import SCALING_S, Scaler, ScalingView
from sim.simulation import SimulatedCluster, WorkerPool
from wire.identity import Role, WorkerRef

LOOK_S = 5.0
"""Interval between two decisions."""


class PoolBounds(msgspec.Struct, frozen=True):
    """Fewest and most workers of a pool."""

    fewest: int
    most: int


class SimulatedScaling:
    """Adds and drains a cluster's workers, as the driver does (`cluster.running`).

    A worker costs from the moment of its start until it has left. It serves `start_s` later.
    """

    def __init__(
        self,
        cluster: SimulatedCluster,
        pools: Mapping[Role, tuple[WorkerPool, PoolBounds]],
        start_s: float,
        *,
        roles: Roles = Roles.FIXED,
        split: Split = Split.AUTO,
    ) -> None:
        """`pools` are those that the cluster was made of, one of each role."""
        self.worker_s = 0.0
        """Time of all workers so far, in seconds."""
        self.most_workers = 0
        self.counts: list[tuple[float, int]] = []
        """Number of workers that run or start, at each look."""
        self._cluster = cluster
        self._pools = pools
        self._start_s = start_s
        self._sharing = sharing_of(roles, split)
        self._scaler = Scaler(start_s)
        self._running = {role: self._of(role) for role in pools}
        self._starting = dict.fromkeys(pools, 0)
        self._draining: set[WorkerRef] = set()
        self._left: set[WorkerRef] = set()
        self._looked_s = cluster.clock.now
        cluster.clock.after(LOOK_S, self._look)

    @property
    def num_workers(self) -> int:
        """Workers that run, start or drain."""
        running = sum(map(len, self._running.values()))
        return running + sum(self._starting.values()) + len(self._draining)

    def _of(self, role: Role) -> list[WorkerRef]:
        workers = self._cluster.workers
        return [ref for ref, worker in workers.items() if worker.card.role is role]

    def _look(self) -> None:
        now = self._cluster.clock.now
        self.worker_s += self.num_workers * (now - self._looked_s)
        self._looked_s = now
        self._find_started()
        workload = self._cluster.ledger.workload(now)
        if workload is not None:
            homes: dict[WorkerRef | None, Role] = {
                ref: role for role, refs in self._running.items() for ref in refs
            }
            router, table = self._cluster.router, self._cluster.ledger.table
            view = ScalingView(
                table=table,
                homes=homes,
                workload=workload,
                sharing=self._sharing,
                num_waiting=router.num_queued + int(table.num_prompts.sum()),
                attainment=router.attainment.over(SCALING_S, now),
            )
            wanted = self._scaler.decide(view, now)
            for role, count in ({} if wanted is None else wanted.counts).items():
                self._move(role, count)
        self.counts.append((now, self.num_workers))
        self.most_workers = max(self.most_workers, self.num_workers)
        self._cluster.clock.after(LOOK_S, self._look)

    def _find_started(self) -> None:
        """Workers that have joined since the last look."""
        for role, refs in self._running.items():
            new = [it for it in self._of(role) if it not in refs and it not in self._left]
            refs += new
            self._starting[role] -= len(new)

    def _move(self, role: Role, wanted: int) -> None:
        pool, bounds = self._pools[role]
        wanted = min(bounds.most, max(bounds.fewest, wanted))
        there = len(self._running[role]) + self._starting[role]
        if wanted > there:
            self._starting[role] += wanted - there
            added = msgspec.structs.replace(pool, num_workers=wanted - there)
            self._cluster.add(added, self._cluster.clock.now + self._start_s)
        for _ in range(min(there - wanted, len(self._running[role]) - 1)):
            self._drain(role)

    def _drain(self, role: Role) -> None:
        """The newest worker leaves."""
        ref = self._running[role].pop()
        self._draining.add(ref)
        self._left.add(ref)
        self._cluster.drain(ref, lambda: self._draining.discard(ref))
