"""A running cluster: started in order, supervised, and drained in the opposite order."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cluster.backoff import Backoff
from cluster.changes import RollingStep, SlotState, difference, needs_replacing, next_step
from cluster.config import ClusterConfig
from cluster.errors import NoStatus, StartFailed
from cluster.launcher import Launcher, RunningWorker
from cluster.pools import PoolConfig
from cluster.process_slots import NotStarted, RouterSlot, WorkerSlot
from cluster.router_group import RouterGroup
from cluster.scaling import replicas_for, scales, wanted_by, with_replicas
from router.config import RouterAddresses
from runtime.tokenizer_hash import tokenizer_hash

POLL_S = 0.1
SLACK_S = 5.0
SCALE_S = 5.0
"""Interval between two questions how many workers are wanted."""

Report = Callable[[str], None]


class RunningCluster:
    """The routers, and the pools of their models. `report(line)` shows a line to the user."""

    def __init__(
        self,
        config: ClusterConfig,
        launcher: Launcher,
        report: Report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._launcher = launcher
        self._report = report
        self._clock = clock
        self._routers = RouterGroup(launcher, report, clock)
        self._workers: list[WorkerSlot] = []
        self._draining: list[tuple[WorkerSlot, float]] = []
        """Draining workers, each with the time at which it is stopped at the latest."""
        self._num_starts: dict[str, int] = {}
        """Number of starts of each worker name that has no slot now."""
        self._replicas = {pool.name: pool.replicas for pool in config.pools}
        """Number of workers of each pool that scales, as routers want them."""
        self._scaled_at = clock()
        self._told_why_not: str | None = None

    @property
    def addresses(self) -> RouterAddresses:
        """The addresses of the first router; the others share its ports."""
        return self._routers.addresses

    def start(self) -> None:
        """Start all processes; returns when every worker serves. Raises StartFailed; `stop` then
        cleans up."""
        self._routers.start(self.config.router, self.config.num_routers)
        for pool, index in self.config.workers():
            name = f"{pool.name}-{index}"
            worker = self._start_worker(pool, name, 1)
            backoff = Backoff(self._clock())
            self._workers.append(WorkerSlot(name, backoff, pool=pool, worker=worker))
        self._routers.report_ready()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until every worker has joined the routers. Raises StartFailed."""
        deadline = time.monotonic() + self.config.start_timeout_s
        waiting = list(self._workers)
        while waiting:
            waiting = [slot for slot in waiting if not self._is_ready(slot)]
            if waiting and time.monotonic() > deadline:
                names = ", ".join(slot.name for slot in waiting)
                raise StartFailed(
                    f"{names} did not start within {self.config.start_timeout_s:.0f} s; "
                    "raise start_timeout_s if the weights simply take longer to load"
                )
            if waiting:
                time.sleep(POLL_S)

    def watch(self) -> None:
        """Replace dead processes, and take the next step of a change. Call it every second or
        so."""
        self._routers.replace_dead(self.config.router)
        for worker in self._workers:
            self._replace_worker(worker)
        self._remove_drained()
        if self._clock() >= self._scaled_at + SCALE_S:
            self._scaled_at = self._clock()
            self._scale()
        self._step()

    def change(self, config: ClusterConfig) -> bool:
        """Change to this configuration, in steps taken by `watch`.

        Workers are added, drained, or replaced one at a time. Returns False, and changes nothing,
        if the change needs a restart.
        """
        found = difference(
            with_replicas(self.config, self._replicas),
            with_replicas(config, self._replicas),
            _same_text,
        )
        for reason in found.refused:
            self._report(f"the change is refused: {reason}")
        if found.refused:
            return False
        self._report(f"the configuration has changed: it {found}")
        self.config = config
        self._launcher.adopt(with_replicas(config, self._replicas))
        return True

    @property
    def changing(self) -> bool:
        """Whether the last change is still in progress."""
        step = self._next_step()
        waits = any(not slot.reported_ready for slot in self._workers)
        return bool(self._draining or step.start or step.drain or waits)

    def stop(self) -> None:
        """Drain all requests, then end every process."""
        timeout_s = self.config.drain_timeout_s
        self._workers += [slot for slot, _ in self._draining]
        self._draining = []
        for slots in (self._routers.slots, self._workers):
            processes = [
                slot.router if isinstance(slot, RouterSlot) else slot.worker
                for slot in slots
                if not slot.empty
            ]
            for process in processes:
                process.drain(timeout_s)
            deadline = time.monotonic() + timeout_s + SLACK_S
            for process in processes:
                process.wait_stopped(max(0.0, deadline - time.monotonic()))
        self._routers.slots, self._workers = [], []

    def warnings(self) -> list[str]:
        """Warnings about the routers' settings."""
        return self._routers.warnings(self.config.router)

    @property
    def worker_addresses(self) -> list[str]:
        """host:port of each worker's internal RPC."""
        addresses = [slot.worker.status().address for slot in self._workers]
        return [address for address in addresses if address is not None]

    def signal_worker(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a worker's process on this machine, for fault tests."""
        for slot in self._workers:
            process_id = slot.worker.status().process_id
            if slot.name == name and process_id is not None:
                os.kill(process_id, number)

    def _replace_worker(self, slot: WorkerSlot) -> None:
        if not slot.empty:
            status = slot.worker.status()
            if status.error is None:
                slot.show(status, self._report)
            else:
                slot.worker.wait_stopped(0)
                slot.record_death(status.error, self._clock(), self._report)

        def start(num_starts: int) -> None:
            slot.fill(self._start_worker(slot.pool, slot.name, num_starts))

        slot.restart_when_due(start, self._clock(), self._report)

    def _scale(self) -> None:
        """Ask the routers how many workers are wanted; those that differ are added or drained."""
        if not scales(self.config):
            return
        try:
            told = [slot.router.model_status() for slot in self._routers.slots if not slot.empty]
        except NoStatus as error:
            if str(error) != self._told_why_not:
                self._report(f"pools are not scaled: {error}")
            self._told_why_not = str(error)
            return
        self._told_why_not = None
        before = self._replicas
        self._replicas = {**before, **replicas_for(self.config, wanted_by(told), before)}
        changed = [
            f"{name} from {before.get(name, 0)} to {count} workers"
            for name, count in self._replicas.items()
            if count != before.get(name)
        ]
        if changed:
            reasons = {model.wanted.why for it in told for model in it.models if model.wanted}
            self._report(f"scales {', '.join(changed)}: {'; '.join(sorted(reasons))}")
            self._launcher.adopt(with_replicas(self.config, self._replicas))

    def _step(self) -> None:
        step = self._next_step()
        for name in step.drain:
            self._drain_worker(name)
        wanted = self._wanted()
        for name in step.start:
            self._add(name, wanted[name])

    def _next_step(self) -> RollingStep:
        wanted = self._wanted()
        slots = [
            SlotState(
                name=slot.name,
                is_current=slot.name in wanted
                and not needs_replacing(slot.pool, wanted[slot.name]),
                serves=slot.reported_ready and not slot.empty,
            )
            for slot in self._workers
        ]
        return next_step([*wanted], slots, {slot.name for slot, _ in self._draining})

    def _wanted(self) -> dict[str, PoolConfig]:
        """Pools by worker name."""
        config = with_replicas(self.config, self._replicas)
        return {f"{pool.name}-{index}": pool for pool, index in config.workers()}

    def _drain_worker(self, name: str) -> None:
        """Drain a worker: it takes no new requests, and ends when its requests have."""
        (slot,) = [slot for slot in self._workers if slot.name == name]
        self._workers.remove(slot)
        self._num_starts[name] = slot.num_starts
        if slot.empty:
            return
        timeout_s = slot.pool.worker.drain_timeout_s
        self._report(f"{name}   drains: its requests may take {timeout_s:.0f} s to end")
        slot.worker.drain(timeout_s)
        self._draining.append((slot, self._clock() + timeout_s + SLACK_S))

    def _remove_drained(self) -> None:
        for slot, until in [*self._draining]:
            if slot.worker.has_stopped() or self._clock() > until:
                slot.worker.wait_stopped(0)
                self._draining.remove((slot, until))
                self._report(f"{slot.name}   left")

    def _add(self, name: str, pool: PoolConfig) -> None:
        num_starts = self._num_starts.pop(name, 0) + 1
        not_started = NotStarted(name, "it was not started")
        backoff = Backoff(self._clock())
        slot = WorkerSlot(name, backoff, num_starts, pool=pool, worker=not_started)
        self._workers.append(slot)
        try:
            slot.fill(self._start_worker(pool, name, num_starts))
        except StartFailed as error:
            slot.record_death(str(error), self._clock(), self._report)

    def _start_worker(self, pool: PoolConfig, name: str, num_starts: int) -> RunningWorker:
        """Start a worker. Each incarnation gets an id of its own, so that peers never confuse
        two."""
        config = pool.worker
        config = msgspec.structs.replace(
            config,
            worker_id=name if num_starts == 1 else f"{name}.{num_starts}",
            routers=(*config.routers, *self._routers.fleet_addresses),
        )
        return self._launcher.start_worker(pool, name, config)

    def _is_ready(self, slot: WorkerSlot) -> bool:
        status = slot.worker.status()
        if status.error is not None:
            raise StartFailed(f"{slot.name}: {status.error}")
        slot.show(status, self._report)
        return slot.reported_ready


def _same_text(one: str, other: str) -> bool:
    """Whether both directories have the same tokenizer; True if one is not readable on this
    node."""
    hashes = [tokenizer_hash(Path(path)) for path in (one, other)]
    return None in hashes or hashes[0] == hashes[1]


@contextmanager
def running(config: ClusterConfig, launcher: Launcher, report: Report) -> Iterator[RunningCluster]:
    """A started cluster; stopped, and its launcher closed, however the block ends."""
    cluster = RunningCluster(config, launcher, report)
    try:
        cluster.start()
        yield cluster
    finally:
        try:
            cluster.stop()
        finally:
            launcher.close()
