"""A router process: its servers, and how it starts, drains and stops."""

from __future__ import annotations

import asyncio
import logging
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import msgspec

from router.access.exposure import warnings
from router.access.gate import Gate
from router.access.keys import KeyFile
from router.config import RouterAddresses, RouterConfig
from router.errors import StartError
from router.fleet.fleet import Fleet
from router.fleet.fleets import Fleets
from router.fleet.running_clock import RunningClock
from router.grpc_api.door import GrpcDoor
from router.http.app import build_app
from router.http.http_gates import ADMIN_PATHS, CHANGING_PATHS, AdminGate, PublicGate
from router.journeys.conductor import Conductor
from router.metrics import RouterMetrics
from router.models import Models, ServedModel
from router.roles.model_status import StatusBody
from router.text.model_card import read_model_card
from router.text.tokenizer import Tokenizer
from runtime.address import is_loopback, join_address
from runtime.descriptors import watch_descriptors
from runtime.fleet import FleetService
from runtime.http.server import HttpServer
from runtime.installed_version import installed_version
from runtime.listen import bind, claimed_port
from runtime.session import SERVER_OPTIONS
from runtime.tokenizer_hash import tokenizer_hash

log = logging.getLogger("tandem.router")


class RouterServer:
    """A router. Call start, drain and stop in this order, once each.

    Raises StartError if a model or the file of keys cannot be read.
    """

    def __init__(self, config: RouterConfig) -> None:
        self._config = config
        self.router_id = f"router-{secrets.token_hex(4)}"
        self._clock = RunningClock()
        models = load_models(config, self.router_id, self._clock)
        self.fleets = Fleets([model.fleet for model in models])
        self.conductor = Conductor(
            config, models, RouterMetrics(self.fleets, config.request_timeout_s)
        )
        keys = None if config.keys_file is None else KeyFile(config.keys_file)
        self._gate = Gate(keys)
        self._tasks: set[asyncio.Task[None]] = set()
        self._descriptor_task: asyncio.Task[None] | None = None
        self._clock_task: asyncio.Task[None] | None = None
        self._role_tasks: list[asyncio.Task[None]] = []
        self._watch_tasks: list[asyncio.Task[None]] = []

    async def start(self) -> RouterAddresses:
        """Bind all ports and serve. Raises PortTaken or BadCertificate, with no port left bound."""
        config = self._config
        self._clock.begin()
        self._clock_task = asyncio.create_task(self._clock.keep(), name="clock")
        self._servers = PublicServers(self.conductor, self._gate)
        self._fleet_server = grpc.aio.server(options=SERVER_OPTIONS)
        service = FleetService(self.router_id, self.fleets.join, config.tls)
        self._fleet_server.add_generic_rpc_handlers([service])
        try:
            fleet_port = bind(
                self._fleet_server, config.host, config.fleet_port, "fleet_port", config.tls
            )
            ports = await self._servers.start()
            if config.share_ports:
                self._gate.share_usage(config.keys_file, config.host, ports.grpc, ports.http)
            for model in self.conductor.models:
                model.fleet.on_change = self._show_readiness
            await self._fleet_server.start()
        except BaseException:
            await self.stop()
            raise
        self._role_tasks = [
            asyncio.create_task(model.role_keeper.keep(), name=f"roles of {model.name}")
            for model in self.conductor.models
            if model.role_keeper.follows
        ]
        self._watch_tasks = [
            asyncio.create_task(model.watcher.keep(), name=f"watch {model.name}")
            for model in self.conductor.models
        ]
        self._descriptor_task = asyncio.create_task(watch_descriptors(), name="watch descriptors")
        for warning in warnings(config):
            log.warning("%s", warning)
        return RouterAddresses(
            router_id=self.router_id,
            models=tuple(model.name for model in self.conductor.models),
            grpc=join_address(config.host, ports.grpc),
            http=join_address(config.host, ports.http),
            fleet=join_address(config.host, fleet_port),
            admin=None if ports.admin is None else join_address(config.admin_host, ports.admin),
        )

    async def status(self) -> StatusBody:
        """The status of its models; on its event loop."""
        return self.conductor.status(installed_version())

    async def drain(self, timeout_s: float) -> bool:
        """Fail health checks, disconnect clients after a grace period, and wait for running
        requests.

        Returns False if some are left after `timeout_s`.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        self.conductor.draining = True
        await self._servers.announce_drain(min(self._config.drain_grace_s, timeout_s))
        self.conductor.refuses = True
        self._servers.retire(timeout_s)
        return await self.conductor.wait_idle(deadline - asyncio.get_running_loop().time())

    async def stop(self) -> None:
        """End everything; running requests fail, and are cancelled on their workers."""
        self.conductor.draining = self.conductor.refuses = True
        for task in (*self._role_tasks, *self._watch_tasks):
            task.cancel()
        self.conductor.stop_all()
        await self.conductor.wait_idle(1.0)
        if self._descriptor_task is not None:
            self._descriptor_task.cancel()
        await self._servers.stop()
        self._gate.close()
        await self._fleet_server.stop(0)
        await self.fleets.close()
        await asyncio.gather(*self._tasks)
        if self._clock_task is not None:
            self._clock_task.cancel()

    def _show_readiness(self) -> None:
        task = asyncio.create_task(self._servers.show_readiness())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def load_models(config: RouterConfig, router_id: str, clock: RunningClock) -> Models:
    """Load all models, each in a thread, with one clock for all. Raises StartError."""
    if not config.models:
        raise StartError("there is no model to serve: give a model directory with --model")

    def load(name: str) -> ServedModel:
        card = read_model_card(Path(config.models[name].path), name)
        fleet = Fleet(
            router_id,
            name,
            open_timeout_s=config.open_timeout_s,
            index_max_entries=config.index_max_entries,
            tls=config.tls,
            clock=clock,
            tokenizer=tokenizer_hash(Path(config.models[name].path)),
        )
        return ServedModel(config.for_model(name), card, Tokenizer(card), fleet)

    with ThreadPoolExecutor(len(config.models), "tokenizers") as threads:
        return Models([*threads.map(load, config.models)])


class ServerPorts(msgspec.Struct, frozen=True, kw_only=True):
    grpc: int
    http: int
    admin: int | None


class PublicServers:
    """The public servers (gRPC, HTTP) and the admin server.

    `start` binds all or raises; `stop` ends those that have started.
    """

    def __init__(self, conductor: Conductor, gate: Gate) -> None:
        self._config = config = conductor.config
        app = build_app(conductor)
        public = PublicGate(
            app,
            gate,
            conductor.metrics,
            body_timeout_s=config.body_timeout_s,
            hidden=ADMIN_PATHS if config.admin_port is not None else CHANGING_PATHS,
        )
        self._grpc = GrpcDoor(conductor, gate)
        self._http = HttpServer(public, share_port=config.share_ports, tls=config.door_tls)
        outside = not is_loopback(config.admin_host)
        self._admin = HttpServer(
            AdminGate(app, gate, requires_keys=outside),
            tls=config.door_tls if outside else None,
        )

    async def start(self) -> ServerPorts:
        """Bind and serve. Raises PortTaken, BadCertificate."""
        config = self._config
        if not config.share_ports or config.join_ports:
            return await self._start()
        with (
            claimed_port(config.host, config.http_port, "http_port"),
            claimed_port(config.host, config.grpc_port, "grpc_port"),
        ):
            return await self._start()

    async def _start(self) -> ServerPorts:
        config, admin = self._config, None
        http = await self._http.start(config.host, config.http_port, "http_port")
        if config.admin_port is not None:
            admin = await self._admin.start(config.admin_host, config.admin_port, "admin_port")
        grpc = await self._grpc.start(config.host, config.grpc_port)
        return ServerPorts(grpc=grpc, http=http, admin=admin)

    async def show_readiness(self) -> None:
        """Update the gRPC health service."""
        await self._grpc.show_readiness()

    async def announce_drain(self, grace_s: float) -> None:
        """Fail health checks, and ask HTTP clients to reconnect elsewhere.

        Returns after the grace period, or when no HTTP client is connected. gRPC clients are told
        by `retire`, without losing calls.
        """
        await self.show_readiness()
        self._http.close_after_answers()
        await self._http.wait_unconnected(grace_s)

    def retire(self, timeout_s: float) -> None:
        """Stop listening on public ports, and close idle connections.

        Busy connections close after their requests; gRPC calls may take `timeout_s`. The admin port
        stays.
        """
        self._http.retire()
        self._grpc.retire(timeout_s)

    async def stop(self) -> None:
        await asyncio.gather(self._grpc.stop(0.5), self._http.stop(), self._admin.stop())
