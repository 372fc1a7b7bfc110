"""The launcher for Ray: processes are actors, each worker in a placement group of its own."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, chdir, nullcontext
from typing import Any

import msgspec
import ray
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from cluster.actors import RouterActor, WorkerActor
from cluster.cluster_name import NAMESPACE, claim, submission_id
from cluster.config import ClusterConfig, ProcessConfig, with_host
from cluster.demands import pairing, router_demand, worker_demand
from cluster.errors import NameTaken, StartFailed
from cluster.idle_gpus import idle_gpu_warnings
from cluster.interruptible import call_interruptibly
from cluster.launcher import ROUTER_START_S
from cluster.light_ray import start_light_ray
from cluster.placement import Node, Placed, ranked, same_node
from cluster.pools import PoolConfig
from cluster.ray_address import check_that_ray_answers, ray_address
from cluster.ray_bundles import ReservedBundle, ReservedBundles, nodes
from cluster.ray_processes import RayRouter, RayWorker, cause_of
from cluster.shadowing import ROOT
from cluster.shortage import explain
from router.config import RouterAddresses, RouterConfig
from runtime.address import LOOPBACK
from worker.config import WorkerConfig

JOB_STOP_S = 3.0
"""Ray's default time for a stopped job to end."""


class RayLauncher:
    """Implements `cluster.launcher.Launcher` on a running Ray, or on a light one that it starts."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._bundles = ReservedBundles(config.name)
        self._router_nodes: dict[str, Node] = {}
        self._connect()

    def start_router(self, name: str, config: RouterConfig) -> RayRouter:
        node = self._router_node(name)
        others = [it for it in self._router_nodes if it != name]
        joins = any(self._router_nodes[it].node_id == node.node_id for it in others)
        config = msgspec.structs.replace(config, join_ports=config.join_ports and joins)
        wanted = self._config.ray.routers
        actor = (
            ray.remote(RouterActor)
            .options(
                num_cpus=wanted.num_cpus,
                resources=wanted.resources,
                max_concurrency=2,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
            )
            .remote()
        )
        started = actor.start.remote(msgspec.json.encode(self._with_host(config)))
        try:
            answer = ray.get(started, timeout=ROUTER_START_S)
        except GetTimeoutError:
            ray.kill(actor)
            raise StartFailed(
                f"{name} did not start within {ROUTER_START_S:.0f} s on {node.address}"
            ) from None
        except RayError as error:
            ray.kill(actor)
            raise StartFailed(f"{name} did not start: {cause_of(error)}") from error
        self._router_nodes[name] = node
        return RayRouter(name, actor, msgspec.json.decode(answer, type=RouterAddresses))

    def start_worker(self, pool: PoolConfig, name: str, config: WorkerConfig) -> RayWorker:
        threads = config.threads or max(1, int(pool.num_cpus))
        config = msgspec.structs.replace(self._with_host(config), threads=threads)
        settings = msgspec.json.encode(config)

        def start(bundle: ReservedBundle) -> Any:
            actor = (
                ray.remote(WorkerActor)
                .options(
                    num_cpus=pool.num_cpus,
                    num_gpus=pool.num_gpus,  # other resources belong to the placement group alone
                    max_concurrency=4,
                    scheduling_strategy=PlacementGroupSchedulingStrategy(bundle.group),
                )
                .remote()
            )
            actor.start.remote(pool.role.value, settings)
            return actor

        near = pairing(self._config, pool.model)
        bundle = self._bundles.reserve(name, worker_demand(pool), near)
        timeout_s = self._config.ray.place_timeout_s
        return RayWorker(name, self._bundles, bundle, start, timeout_s, pool.keys)

    def adopt(self, config: ClusterConfig) -> None:
        self._config = config

    def warnings(self) -> list[str]:
        """Warnings about GPUs that no worker asks for, and about Ray's own settings."""
        num_gpus = sum(int(node.total.get("GPU", 0)) for node in nodes())
        idle = idle_gpu_warnings(self._config, num_gpus, "Ray's nodes have")
        return idle + self._job_warnings()

    def _job_warnings(self) -> list[str]:
        stop_s = float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", JOB_STOP_S))
        drain_s = self._config.drain_timeout_s
        if submission_id() is None or stop_s > drain_s:
            return []
        variables = f'{{"env_vars": {{"RAY_JOB_STOP_WAIT_TIME_S": "{drain_s + 10:.0f}"}}}}'
        return [
            f"Ray kills a stopped job after {stop_s:.0f} s, and draining may take {drain_s:.0f} s: "
            f"submit with --runtime-env-json '{variables}', or lower drain_timeout_s"
        ]

    def close(self) -> None:
        ray.shutdown()

    def _with_host(self, config: ProcessConfig) -> ProcessConfig:
        """Set `host` to loopback on a light Ray; elsewhere each process uses its node's address."""
        return with_host(config, LOOPBACK) if self._is_light else config

    def _router_node(self, name: str) -> Node:
        """The node for a router: its former one, since clients and workers know the address; else
        the best."""
        demand, alive = router_demand(self._config), nodes()
        former = self._router_nodes.get(name)
        if former is not None:
            node = same_node(former, alive)
            if node is not None:
                return node
            raise StartFailed(
                f"{name} ran on {former.address}, whose node is gone; clients and workers know "
                "that address, so it waits for a node there"
            )
        placed = [Placed(demand, node.node_id) for node in self._router_nodes.values()]
        home = ray.get_runtime_context().get_node_id()
        found = ranked(demand, alive, placed, home=home)
        if not found:
            why = explain(demand, alive, placed, "ray.routers")
            raise StartFailed(f"{name} has no node: {why}")
        return found[0]

    def _connect(self) -> None:
        """Connect to the named Ray or that of the current job; else start a light one."""
        address = ray_address(self._config)
        self._is_light = address is None
        options: dict[str, Any] = {
            "namespace": NAMESPACE,
            "runtime_env": self._config.ray.runtime_env or None,
            "logging_level": "ERROR",
            "log_to_driver": False,
        }
        try:
            if address is not None:
                logging.getLogger("ray").setLevel(logging.ERROR)
                if check_that_ray_answers(address):
                    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
                with self._import_directory():
                    call_interruptibly(lambda: ray.init(address=address, **options))
                self._name_actor = claim(self._config.name)
                return
            with self._import_directory():
                start_light_ray(num_cpus=self._cpus_wanted(), **options)
        except NameTaken:
            ray.shutdown()
            raise
        except (ConnectionError, RuntimeError, TypeError, ValueError) as error:
            raise StartFailed(f"Ray at {address or 'this machine'}: {error}") from error

    def _import_directory(self) -> AbstractContextManager[None]:
        """The working directory to connect from: Ray's workers import from it first, so it is ours.

        With a runtime_env the user's stays, since paths in it may be relative.
        """
        return nullcontext() if self._config.ray.runtime_env else chdir(ROOT)

    def _cpus_wanted(self) -> int:
        """CPUs to declare on a light Ray: a laptop may have fewer cores than the cluster has
        workers."""
        wanted = sum(
            max(pool.replicas, pool.max_workers or 0) * pool.num_cpus for pool in self._config.pools
        )
        return max(os.cpu_count() or 1, int(wanted + 1))
