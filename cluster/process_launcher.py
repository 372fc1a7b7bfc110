"""Processes as plain children on this machine: for tests, and where Ray is not installed."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from cluster.config import ClusterConfig, at_home
from cluster.errors import StartFailed
from cluster.launcher import ROUTER_START_S, WorkerStatus
from cluster.pools import Pool
from router.addresses import RouterAddresses
from router.config import RouterConfig
from runtime.address import LOOPBACK, join_address, reachable
from runtime.listen import PortTaken, reserve_port
from worker.config import WorkerConfig

WORTH_HEARING = re.compile(r" (WARNING|ERROR|CRITICAL) ")
"""Of what a child logs; the rest is kept for its last words."""
ROOT = Path(__file__).resolve().parent.parent


class Child:
    """A child process whose first line of output says that it serves, and where."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments, "--until-stdin-ends"],
            stdin=subprocess.PIPE,  # which ends with this process, however that ends
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent, which then drains its children
            env={**os.environ, "PYTHONPATH": _python_path()},
        )
        self._ready: queue.Queue[bytes | None] = queue.Queue()
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def wait_ready(self, timeout_s: float) -> bytes | None:
        """What it printed; None while it has not. Raises StartFailed, with why it ended."""
        try:
            ready = self._ready.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if ready is None:
            raise StartFailed(self.last_words())
        return ready

    def last_words(self) -> str:
        self._readers[1].join(timeout=5)
        errors = [
            line.removeprefix("error: ") for line in self._errors if line.startswith("error:")
        ]
        status = self.process.poll()
        if not errors and status == -signal.SIGKILL:
            return "killed by SIGKILL"  # what it wrote before has nothing to do with it
        return (errors or self._errors or [f"exit status {status}"])[-1]

    def stop(self, timeout_s: float) -> None:
        """Terminate gently, then not."""
        try:
            self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        for reader in self._readers:
            reader.join()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                if line.startswith(b"{"):
                    self._ready.put(line)
        self._ready.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as errors:
            for line in errors:
                text = line.decode(errors="replace").rstrip()
                self._errors = [*self._errors[-50:], text]
                if WORTH_HEARING.search(text):
                    sys.stderr.write(f"{self.name}   {text}\n")


class ChildRouter:
    """Implements `cluster.launcher.RunningRouter`; `reserved` is the port `fleet` until then."""

    def __init__(self, child: Child, fleet: str, reserved: socket.socket) -> None:
        self.name = child.name
        self.fleet = fleet
        self._child = child
        self._reserved = reserved

    @cached_property
    def addresses(self) -> RouterAddresses:
        try:
            with self._reserved:
                ready = self._child.wait_ready(ROUTER_START_S)
        except StartFailed as error:
            raise StartFailed(f"{self.name}: {error}") from error
        if ready is None:
            self._child.stop(0)
            raise StartFailed(f"{self.name} did not start within {ROUTER_START_S:.0f} s")
        return msgspec.json.decode(ready, type=RouterAddresses)

    def error(self) -> str | None:
        return None if self._child.process.poll() is None else self._child.last_words()

    def drain(self, timeout_s: float) -> None:
        self._child.process.terminate()

    def wait_stopped(self, timeout_s: float) -> None:
        self._child.stop(timeout_s)
        self._reserved.close()


class ChildWorker:
    """Implements `cluster.launcher.RunningWorker`."""

    def __init__(self, child: Child) -> None:
        self.name = child.name
        self._child = child
        self._address: str | None = None

    def status(self) -> WorkerStatus:
        process_id = self._child.process.pid
        try:
            if self._address is None and (ready := self._child.wait_ready(0.05)) is not None:
                self._address = msgspec.json.decode(ready, type=dict[str, Any])["address"]
        except StartFailed as error:
            return WorkerStatus(process_id=process_id, error=str(error))
        if self._child.process.poll() is not None:
            return WorkerStatus(process_id=process_id, error=self._child.last_words())
        return WorkerStatus(address=self._address, process_id=process_id)

    def drain(self, timeout_s: float) -> None:
        self._child.process.terminate()

    def has_stopped(self) -> bool:
        return self._child.process.poll() is not None

    def wait_stopped(self, timeout_s: float) -> None:
        self._child.stop(timeout_s)


class ProcessLauncher:
    """Implements `cluster.launcher.Launcher` with child processes."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def start_router(self, name: str, config: RouterConfig) -> ChildRouter:
        """Its workers may load while it does: that is where most of a start goes."""
        config = at_home(config, LOOPBACK)
        try:
            reserved = reserve_port(config.host, config.fleet_port, "router.fleet_port")
        except PortTaken as error:
            raise StartFailed(f"{name}: {error}") from error
        port = reserved.getsockname()[1]
        settings = msgspec.json.encode(msgspec.structs.replace(config, fleet_port=port)).decode()
        child = self._spawn(name, ["router", "--settings", settings])
        fleet = join_address(reachable(config.host, LOOPBACK), port)
        return ChildRouter(child, fleet, reserved)

    def start_worker(self, pool: Pool, name: str, config: WorkerConfig) -> ChildWorker:
        config = share_cores(at_home(config, LOOPBACK), os.cpu_count() or 2)
        settings = msgspec.json.encode(config).decode()
        room = f"{pool.role.value}_worker"
        arguments = [room, "--model", config.model, "--settings", settings]
        return ChildWorker(self._spawn(name, arguments))

    def adopt(self, config: ClusterConfig) -> None:
        """Nothing of it is kept here."""

    def pids(self, kind: str) -> tuple[int, ...]:
        """Of the children whose names begin like this."""
        return tuple(it.process.pid for it in self._children if it.name.startswith(kind))

    def close(self) -> None:
        """End whatever was not stopped before."""
        for child in self._children:
            child.stop(0)

    def _spawn(self, name: str, arguments: list[str]) -> Child:
        child = Child(name, arguments)
        self._children.append(child)
        return child


def share_cores(config: WorkerConfig, num_cores: int) -> WorkerConfig:
    """Unless its threads were given: half of the cores, and all of them while others are idle."""
    if config.threads is not None:
        return config
    most = config.most_threads or num_cores
    return msgspec.structs.replace(config, threads=max(1, num_cores // 2), most_threads=most)


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{inherited}" if inherited else str(ROOT)
