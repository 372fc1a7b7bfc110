"""Processes as Ray actors, each in a placement group of its own."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.actors import RouterActor, WorkerActor
from cluster.config import ClusterConfig
from cluster.errors import StartFailed
from cluster.launcher import WorkerStatus
from router.config import RouterConfig
from router.server import RouterAddresses
from wire.identity import Role
from worker.config import WorkerConfig

ROUTER_START_S = 60.0
ANSWER_S = 1.0


class RayRouter:
    """Implements `cluster.launcher.RunningRouter`."""

    def __init__(self, name: str, actor: Any, addresses: RouterAddresses) -> None:
        self.name = name
        self.addresses = addresses
        self._actor = actor
        self._stopping: Any = None

    def error(self) -> str | None:
        try:
            ray.get(self._actor.ping.remote(), timeout=ANSWER_S)
        except GetTimeoutError:
            return None  # busy
        except RayError as error:
            return f"its process died: {_first(error)}"
        return None

    def drain(self, timeout_s: float) -> None:
        self._stopping = self._actor.drain.remote(timeout_s)

    def wait_stopped(self, timeout_s: float) -> None:
        if self._stopping is not None:
            ray.wait([self._stopping], timeout=timeout_s)  # dead or stuck: it is ended either way
        ray.kill(self._actor)


class RayWorker:
    """Implements `cluster.launcher.RunningWorker`."""

    def __init__(self, name: str, actor: Any, group: Any, started: Any) -> None:
        self.name = name
        self._actor = actor
        self._group = group
        self._started = started
        self._last = WorkerStatus()
        self._stopping: Any = None

    def status(self) -> WorkerStatus:
        try:
            answer = ray.get(self._actor.status.remote(), timeout=ANSWER_S)
        except GetTimeoutError:
            return self._last  # busy, or its process still starts
        except RayError as error:
            return msgspec.structs.replace(self._last, error=f"its process died: {_first(error)}")
        self._last = msgspec.json.decode(answer, type=WorkerStatus)
        return self._last

    def drain(self, timeout_s: float) -> None:
        self._stopping = self._actor.drain.remote(timeout_s)

    def wait_stopped(self, timeout_s: float) -> None:
        if self._stopping is not None:
            ray.wait([self._stopping], timeout=timeout_s)
        ray.kill(self._actor)
        remove_placement_group(self._group)


class RayLauncher:
    """Implements `cluster.launcher.Launcher` on a running Ray, or on a light one that it starts."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._connect()

    def start_router(self, name: str, config: RouterConfig) -> RayRouter:
        actor = ray.remote(RouterActor).options(num_cpus=0, max_concurrency=2).remote()
        started = actor.start.remote(msgspec.json.encode(config))
        try:
            answer = ray.get(started, timeout=ROUTER_START_S)
        except RayError as error:
            ray.kill(actor)
            raise StartFailed(f"{name} did not start: {_first(error)}") from error
        return RayRouter(name, actor, msgspec.json.decode(answer, type=RouterAddresses))

    def start_worker(self, role: Role, name: str, config: WorkerConfig) -> RayWorker:
        group = self._place(role, name)
        pool = self._config.pool(role)
        actor = (
            ray.remote(WorkerActor)
            .options(
                num_cpus=pool.num_cpus,
                num_gpus=pool.num_gpus,
                resources=pool.resources,
                max_concurrency=4,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group),
            )
            .remote()
        )
        threads = config.threads or max(1, int(pool.num_cpus))
        config = msgspec.structs.replace(config, threads=threads)
        started = actor.start.remote(role.value, msgspec.json.encode(config))
        return RayWorker(name, actor, group, started)

    def close(self) -> None:
        ray.shutdown()

    def _connect(self) -> None:
        """To the Ray that is named, or the one whose job this is, or else to a new, light one."""
        address = self._config.ray.address or os.environ.get("RAY_ADDRESS")
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        try:
            if address is not None:
                ray.init(address=address, **quiet)
                return
            ray.init(
                num_cpus=self._cpus_wanted(),
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise StartFailed(f"Ray at {address or 'this machine'}: {error}") from error

    def _cpus_wanted(self) -> int:
        """A laptop has fewer cores than a small cluster has workers: let them share."""
        pools = (self._config.prefill, self._config.decode)
        wanted = sum(pool.replicas * pool.num_cpus for pool in pools)
        return max(os.cpu_count() or 1, int(wanted + 1))

    def _place(self, role: Role, name: str) -> Any:
        pool = self._config.pool(role)
        bundle: dict[str, float] = {"CPU": pool.num_cpus, "GPU": pool.num_gpus, **pool.resources}
        bundle = {resource: amount for resource, amount in bundle.items() if amount > 0}
        group = placement_group([bundle or {"CPU": 0.001}], name=name)
        try:
            ray.get(group.ready(), timeout=self._config.ray.place_timeout_s)
        except GetTimeoutError:
            remove_placement_group(group)
            free = {k: v for k, v in ray.available_resources().items() if "node:" not in k}
            raise StartFailed(
                f"{name} wants {bundle}, and the Ray cluster had no room for it within "
                f"{self._config.ray.place_timeout_s:.0f} s; free now: {free}. Add nodes, or lower "
                f"{role.value}.replicas, {role.value}.num_cpus or {role.value}.num_gpus"
            ) from None
        return group


def _first(error: Exception) -> str:
    """The cause that a user can act on, without Ray's traceback."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{cause}"
    if isinstance(error, RayActorError):
        return str(error).strip().splitlines()[0]
    return str(error).strip().splitlines()[-1]
