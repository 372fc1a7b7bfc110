"""Ray actors: thin shells around a router and a worker. Ray carries control, never tokens."""

from __future__ import annotations

import asyncio
import os
import threading

import msgspec
import ray

from cluster.config import with_host
from cluster.launcher import WorkerStatus
from cluster.roles import make_worker
from router.config import RouterConfig
from router.server import RouterServer
from runtime.address import join_address, reachable, split_address
from runtime.background import BackgroundLoop
from runtime.descriptors import raise_descriptor_limit
from runtime.logs import forward_start_lines, start_logging
from runtime.process import freeze_loaded_objects
from wire.identity import Role
from wire.messages import WorkerCard
from worker.config import WorkerConfig
from worker.host import Worker
from worker.progress import Quarters
from worker.standstill import end_when_held_up


class RouterActor:
    """Hosts one router. Settings and answers are JSON, so that Ray pickles bytes alone."""

    def start(self, settings: bytes) -> bytes:
        """Returns `RouterAddresses`. Raises the errors of `RouterServer.start`."""
        own = _node_address()
        config = with_host(msgspec.json.decode(settings, type=RouterConfig), own)
        start_logging("info", hide_messages=True)
        raise_descriptor_limit()
        self._loop = BackgroundLoop("router")
        self._server = RouterServer(config)
        addresses = self._loop.run(self._server.start())
        freeze_loaded_objects()
        host, port = split_address(addresses.fleet)
        fleet = join_address(reachable(host, own), port)
        return msgspec.json.encode(msgspec.structs.replace(addresses, fleet=fleet))

    def ping(self) -> None:
        """Liveness check: an answer means that the process lives."""

    def model_status(self) -> bytes:
        """The status of its models: a `StatusBody`."""
        return msgspec.json.encode(self._loop.run(self._server.status()))

    def drain(self, timeout_s: float) -> None:
        self._loop.run(self._server.drain(timeout_s))
        self._loop.run(self._server.stop())


class WorkerActor:
    """Hosts one worker. Its methods run in parallel threads: `status` answers while `start` loads.

    No method may be a coroutine: Ray would run all methods of such an actor on one event loop.
    """

    def __init__(self) -> None:
        self._status = WorkerStatus(process_id=os.getpid())
        self._lock = threading.Lock()

    def start(self, role: str, settings: bytes) -> None:
        """Returns when routers may send work, or when the start failed; `status` tells which."""
        config = with_host(msgspec.json.decode(settings, type=WorkerConfig), _node_address())
        forward_start_lines(self._add_note)
        raise_descriptor_limit()
        self._loop = BackgroundLoop("worker")
        self._worker = make_worker(
            Role(role),
            config,
            on_crash=_exit_process,
            progress=Quarters(self._add_note).loaded,
        )
        try:
            card, self._watching = self._loop.run(_start(self._worker))
        except Exception as error:  # noqa: BLE001  # whatever it was, the user has to hear it
            self._note(error=f"{type(error).__name__}: {error}")
        else:
            freeze_loaded_objects()
            self._note(address=card.address)

    def status(self) -> bytes:
        with self._lock:
            return msgspec.json.encode(self._status)

    def drain(self, timeout_s: float) -> None:
        self._loop.run(self._worker.drain(timeout_s))
        self._loop.run(self._worker.stop())

    def _add_note(self, line: str) -> None:
        with self._lock:
            notes = (*self._status.notes, line)
            self._status = msgspec.structs.replace(self._status, notes=notes)

    def _note(self, **changes: object) -> None:
        with self._lock:
            self._status = msgspec.structs.replace(self._status, **changes)


async def _start(worker: Worker) -> tuple[WorkerCard, asyncio.Task[None]]:
    """Start the worker. Returns its card, and the task that ends the process when its steps
    stall."""
    card = await worker.start()
    watching = asyncio.create_task(end_when_held_up(worker.config.step_timeout_s))
    await worker.joined.wait()
    return card, watching


def _node_address() -> str:
    """The address of this process's node; loopback on a light Ray."""
    own = ray.get_runtime_context().get_node_id()
    (address,) = [node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == own]
    return str(address)


def _exit_process(error: Exception) -> None:
    """End the process, since its engine is broken: every peer notices at once."""
    os._exit(1)
