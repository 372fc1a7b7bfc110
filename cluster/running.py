"""A cluster that runs: started in order, watched, drained in the opposite order."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from cluster.config import ClusterConfig
from cluster.errors import StartFailed
from cluster.launcher import Launcher, RunningWorker, WorkerStatus
from router.server import RouterAddresses
from wire.identity import Role
from worker.config import WorkerConfig

POLL_S = 0.1
SLACK_S = 5.0

Tell = Callable[[str], None]


@dataclass(slots=True)
class Place:
    """One place in a pool, and who fills it now."""

    role: Role
    name: str
    worker: RunningWorker
    num_starts: int = 1
    quarters_told: int = 0
    told_ready: bool = False


class RunningCluster:
    """One router and its two pools. `tell(line)` hears what a person would want to know."""

    def __init__(self, config: ClusterConfig, launcher: Launcher, tell: Tell) -> None:
        self.config = config
        self._launcher = launcher
        self._tell = tell
        self._places: list[Place] = []

    def start(self) -> RouterAddresses:
        """Returns when every worker serves. Raises StartFailed; `stop` ends what had started."""
        self.addresses = self._launcher.start_router(self.config.router)
        self._tell(f"router   ready   grpc {self.addresses.grpc}   http {self.addresses.http}")
        for role in Role:
            for index in range(self.config.pool(role).replicas):
                self._places.append(self._fill(role, f"{role.value}-{index}", 1))
        self.wait_ready()
        return self.addresses

    def wait_ready(self) -> None:
        """Until every worker has joined the router. Raises StartFailed."""
        deadline = time.monotonic() + self.config.start_timeout_s
        waiting = list(self._places)
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
        """Replace workers that have died. Call it every second or so."""
        for index, place in enumerate(self._places):
            status = place.worker.status()
            if status.error is not None:
                self._tell(f"{place.name}   died: {status.error}; starting another")
                place.worker.wait_stopped(0)
                self._places[index] = self._fill(place.role, place.name, place.num_starts + 1)
            else:
                self._show(place, status)

    def stop(self) -> None:
        """Let requests end, then end every process."""
        timeout_s = self.config.drain_timeout_s
        self._launcher.stop_router(timeout_s)
        for place in self._places:
            place.worker.drain(timeout_s)
        deadline = time.monotonic() + timeout_s + SLACK_S
        for place in self._places:
            place.worker.wait_stopped(max(0.0, deadline - time.monotonic()))
        self._places = []

    @property
    def worker_addresses(self) -> list[str]:
        """host:port of each worker's internal RPC."""
        addresses = [place.worker.status().address for place in self._places]
        return [address for address in addresses if address is not None]

    def signal_worker(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a worker's process on this machine: the pulled plug of fault tests."""
        for place in self._places:
            process_id = place.worker.status().process_id
            if place.name == name and process_id is not None:
                os.kill(process_id, number)

    def _fill(self, role: Role, name: str, num_starts: int) -> Place:
        """Another incarnation of a worker gets another id, so that nobody confuses the two."""
        worker_id = name if num_starts == 1 else f"{name}.{num_starts}"
        config: WorkerConfig = msgspec.structs.replace(
            self.config.pool(role).worker, worker_id=worker_id, routers=(self.addresses.fleet,)
        )
        worker = self._launcher.start_worker(role, name, config)
        return Place(role, name, worker, num_starts)

    def _is_ready(self, place: Place) -> bool:
        status = place.worker.status()
        if status.error is not None:
            raise StartFailed(f"{place.name}: {status.error}")
        self._show(place, status)
        return place.told_ready

    def _show(self, place: Place, status: WorkerStatus) -> None:
        """A line for every quarter of the weights, and one when the worker serves."""
        quarter = 4 * status.loaded_bytes // status.total_bytes if status.total_bytes else 0
        if quarter > place.quarters_told:
            place.quarters_told = quarter
            megabytes = status.total_bytes / 1e6
            self._tell(f"{place.name}   weights {quarter * 25} % of {megabytes:.1f} MB loaded")
        if status.address is not None and not place.told_ready:
            place.told_ready = True
            self._tell(f"{place.name}   ready   at {status.address}   process {status.process_id}")


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
