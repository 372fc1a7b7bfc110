"""A cluster that runs: started in order, watched, drained in the opposite order."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cluster.backoff import Backoff
from cluster.changes import HeldPlace, RollingStep, difference, needs_replacing, next_step
from cluster.config import ClusterConfig, at_home
from cluster.errors import StartFailed
from cluster.launcher import Launcher, RunningWorker
from cluster.pools import PoolConfig
from cluster.process_slots import NotStarted, RouterSlot, WorkerSlot
from router.access.exposure import warnings
from router.config import RouterAddresses, RouterConfig
from runtime.address import split_address
from runtime.tokenizer_hash import tokenizer_hash

POLL_S = 0.1
SLACK_S = 5.0

ONE_OF_SEVERAL = (
    "the routers share a door, where /metrics is of one of them, each time another: "
    "set router.admin_port"
)
Tell = Callable[[str], None]


class RunningCluster:
    """Routers, and the pools of their models. `tell(line)` hears what a person should know."""

    def __init__(
        self,
        config: ClusterConfig,
        launcher: Launcher,
        tell: Tell,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._launcher = launcher
        self._tell = tell
        self._clock = clock
        self._routers: list[RouterSlot] = []
        self._workers: list[WorkerSlot] = []
        self._leaving: list[tuple[WorkerSlot, float]] = []
        """Workers that drain while the cluster goes on, and until when."""
        self._num_starts: dict[str, int] = {}
        """How often a worker of each name was started, of those that are no more here."""

    @property
    def addresses(self) -> RouterAddresses:
        """Of the first router; the others share its doors."""
        return self._routers[0].router.addresses

    def start(self) -> None:
        """Returns when every worker serves. Raises StartFailed; `stop` ends what had started."""
        self._start_routers()
        for pool, index in self.config.workers():
            name = f"{pool.name}-{index}"
            worker = self._start_worker(pool, name, 1)
            backoff = Backoff(self._clock())
            self._workers.append(WorkerSlot(name, backoff, pool=pool, worker=worker))
        for place in self._routers:
            self._tell_ready(place)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until every worker has joined the routers. Raises StartFailed."""
        deadline = time.monotonic() + self.config.start_timeout_s
        waiting = list(self._workers)
        while waiting:
            waiting = [place for place in waiting if not self._is_ready(place)]
            if waiting and time.monotonic() > deadline:
                names = ", ".join(place.name for place in waiting)
                raise StartFailed(
                    f"{names} did not start within {self.config.start_timeout_s:.0f} s; "
                    "raise start_timeout_s if the weights simply take longer to load"
                )
            if waiting:
                time.sleep(POLL_S)

    def watch(self) -> None:
        """Replace what has died, and do the next step of a change. Call it every second or so."""
        for router in self._routers:
            self._watch_router(router)
        for worker in self._workers:
            self._watch_worker(worker)
        self._part_with_those_that_left()
        self._step()

    def change(self, config: ClusterConfig) -> bool:
        """Become like this configuration, in steps that `watch` takes: workers are added, drained,
        or replaced one at a time. False, and nothing changes, when that takes a restart."""
        found = difference(self.config, config, _same_text)
        for reason in found.refused:
            self._tell(f"the change is refused: {reason}")
        if found.refused:
            return False
        self._tell(f"the configuration has changed: it {found}")
        self.config = config
        self._launcher.adopt(config)
        return True

    @property
    def changing(self) -> bool:
        """Something is still to be done for the last change."""
        step = self._next_step()
        waits = any(not place.told_ready for place in self._workers)
        return bool(self._leaving or step.start or step.drain or waits)

    def stop(self) -> None:
        """Let requests end, then end every process."""
        timeout_s = self.config.drain_timeout_s
        self._workers += [place for place, _ in self._leaving]
        self._leaving = []
        for places in (self._routers, self._workers):
            processes = [
                place.router if isinstance(place, RouterSlot) else place.worker
                for place in places
                if not place.empty
            ]
            for process in processes:
                process.drain(timeout_s)
            deadline = time.monotonic() + timeout_s + SLACK_S
            for process in processes:
                process.wait_stopped(max(0.0, deadline - time.monotonic()))
        self._routers, self._workers = [], []

    def warnings(self) -> list[str]:
        """What the routers' settings leave open."""
        host, _ = split_address(self.addresses.http)
        doors = [place.router.addresses.http for place in self._routers]
        shared = len(doors) > len(set(doors)) and self.config.router.admin_port is None
        return [*warnings(at_home(self.config.router, host)), *([ONE_OF_SEVERAL] if shared else [])]

    @property
    def worker_addresses(self) -> list[str]:
        """host:port of each worker's internal RPC."""
        addresses = [place.worker.status().address for place in self._workers]
        return [address for address in addresses if address is not None]

    def signal_worker(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a worker's process on this machine: the pulled plug of fault tests."""
        for place in self._workers:
            process_id = place.worker.status().process_id
            if place.name == name and process_id is not None:
                os.kill(process_id, number)

    def _start_routers(self) -> None:
        """The first chooses the ports of the doors, where they are free to choose.

        Of several, each has an admin port of its own.
        """
        config = self.config.router
        admin_port = config.admin_port
        if self.config.num_routers > 1:
            config = msgspec.structs.replace(config, share_ports=True)
        for index in range(self.config.num_routers):
            name = f"router-{index}"
            config = msgspec.structs.replace(config, admin_port=_nth_port(admin_port, index))
            router = self._launcher.start_router(name, config)
            self._routers.append(RouterSlot(name, Backoff(self._clock()), router=router))
            if index + 1 < self.config.num_routers:
                config = msgspec.structs.replace(
                    _at(config, router.addresses), fleet_port=0, join_ports=True
                )

    def _tell_ready(self, place: RouterSlot) -> None:
        at = place.router.addresses
        admin = "" if at.admin is None else f"   admin {at.admin}"
        self._tell(f"{place.name}   ready   grpc {at.grpc}   http {at.http}{admin}")

    def _watch_router(self, place: RouterSlot) -> None:
        """Another one listens where the dead one did: clients and workers find it again."""
        if not place.empty and (error := place.router.error()) is not None:
            place.router.wait_stopped(0)
            place.bury(error, self._clock(), self._tell)

        def start(num_starts: int) -> None:
            config = _at(self.config.router, place.router.addresses)
            shared = self.config.num_routers > 1
            config = msgspec.structs.replace(config, share_ports=shared, join_ports=shared)
            router = self._launcher.start_router(place.name, config)
            self._tell(f"{place.name}   ready   again   http {router.addresses.http}")
            place.router = router

        place.try_again(start, self._clock(), self._tell)

    def _watch_worker(self, place: WorkerSlot) -> None:
        if not place.empty:
            status = place.worker.status()
            if status.error is None:
                place.show(status, self._tell)
            else:
                place.worker.wait_stopped(0)
                place.bury(status.error, self._clock(), self._tell)

        def start(num_starts: int) -> None:
            place.fill(self._start_worker(place.pool, place.name, num_starts))

        place.try_again(start, self._clock(), self._tell)

    def _step(self) -> None:
        step = self._next_step()
        for name in step.drain:
            self._let_go(name)
        wanted = self._wanted()
        for name in step.start:
            self._add(name, wanted[name])

    def _next_step(self) -> RollingStep:
        wanted = self._wanted()
        held = [
            HeldPlace(
                name=place.name,
                is_current=place.name in wanted
                and not needs_replacing(place.pool, wanted[place.name]),
                serves=place.told_ready and not place.empty,
            )
            for place in self._workers
        ]
        return next_step([*wanted], held, {place.name for place, _ in self._leaving})

    def _wanted(self) -> dict[str, PoolConfig]:
        """Pools by the names of their workers."""
        return {f"{pool.name}-{index}": pool for pool, index in self.config.workers()}

    def _let_go(self, name: str) -> None:
        """It takes no new requests, and ends when it has no others."""
        (place,) = [place for place in self._workers if place.name == name]
        self._workers.remove(place)
        self._num_starts[name] = place.num_starts
        if place.empty:
            return
        timeout_s = place.pool.worker.drain_timeout_s
        self._tell(f"{name}   drains: its requests may take {timeout_s:.0f} s to end")
        place.worker.drain(timeout_s)
        self._leaving.append((place, self._clock() + timeout_s + SLACK_S))

    def _part_with_those_that_left(self) -> None:
        for place, until in [*self._leaving]:
            if place.worker.has_stopped() or self._clock() > until:
                place.worker.wait_stopped(0)
                self._leaving.remove((place, until))
                self._tell(f"{place.name}   left")

    def _add(self, name: str, pool: PoolConfig) -> None:
        num_starts = self._num_starts.pop(name, 0) + 1
        nobody = NotStarted(name, "it was not started")
        backoff = Backoff(self._clock())
        place = WorkerSlot(name, backoff, num_starts, pool=pool, worker=nobody)
        self._workers.append(place)
        try:
            place.fill(self._start_worker(pool, name, num_starts))
        except StartFailed as error:
            place.bury(str(error), self._clock(), self._tell)

    def _start_worker(self, pool: PoolConfig, name: str, num_starts: int) -> RunningWorker:
        """Another incarnation of a worker gets another id, so that nobody confuses the two."""
        config = pool.worker
        config = msgspec.structs.replace(
            config,
            worker_id=name if num_starts == 1 else f"{name}.{num_starts}",
            routers=(*config.routers, *(it.router.fleet for it in self._routers)),
        )
        return self._launcher.start_worker(pool, name, config)

    def _is_ready(self, place: WorkerSlot) -> bool:
        status = place.worker.status()
        if status.error is not None:
            raise StartFailed(f"{place.name}: {status.error}")
        place.show(status, self._tell)
        return place.told_ready


def _same_text(one: str, other: str) -> bool:
    """Where a directory cannot be read here, its workers and routers tell."""
    hashes = [tokenizer_hash(Path(path)) for path in (one, other)]
    return None in hashes or hashes[0] == hashes[1]


def _nth_port(first: int | None, index: int) -> int | None:
    """Neighbours of a port that was chosen; any free ones otherwise."""
    return first + index if first else first


def _at(config: RouterConfig, addresses: RouterAddresses) -> RouterConfig:
    """The same settings, at the ports that a router has."""
    ports = (split_address(at)[1] for at in (addresses.grpc, addresses.http, addresses.fleet))
    keys = ("grpc_port", "http_port", "fleet_port")
    config = msgspec.structs.replace(config, **dict(zip(keys, ports, strict=True)))
    if addresses.admin is None:
        return config
    return msgspec.structs.replace(config, admin_port=split_address(addresses.admin)[1])


@contextmanager
def running(config: ClusterConfig, launcher: Launcher, tell: Tell) -> Iterator[RunningCluster]:
    """A started cluster; stopped, and its launcher closed, however the block ends."""
    cluster = RunningCluster(config, launcher, tell)
    try:
        cluster.start()
        yield cluster
    finally:
        try:
            cluster.stop()
        finally:
            launcher.close()
