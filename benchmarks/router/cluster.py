"""Routers with workers that compute nothing, each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from cluster.config import load_config
from cluster.process_launcher import ProcessLauncher
from cluster.running import running

NUM_WORKERS = 4


@dataclass(frozen=True, slots=True)
class Target:
    """The target of the load: an address per API, and the processes whose CPU time counts."""

    name: str
    http: str
    grpc: str | None
    pids: tuple[int, ...]


@contextmanager
def a_cluster(step_s: float, num_routers: int, most_streams: int) -> Iterator[Target]:
    """A cluster whose workers prefill any prompt in one step, and generate a token each
    `step_s`."""
    settings = {
        "prefill.replicas": NUM_WORKERS,
        "decode.replicas": 0,
        "worker.chunk_tokens": 1_000_000,
        "worker.runner": "arithmetic",
        "worker.step_s": step_s,
        "worker.max_sequences": most_streams,
        "worker.cache_bytes": 64 << 20,
        "worker.transport": "memory",
        "num_routers": num_routers,
        "router.max_waiting": 4 * most_streams,
    }
    launcher = ProcessLauncher()
    with ExitStack() as stack:
        cluster = stack.enter_context(
            running(load_config(None, settings), launcher, lambda line: None)
        )
        time.sleep(1.0)  # for what processes do once after they have started
        addresses = cluster.addresses
        name = "tandem" if num_routers == 1 else f"tandem, {num_routers} routers"
        yield Target(name, addresses.http, addresses.grpc, launcher.pids("router"))
