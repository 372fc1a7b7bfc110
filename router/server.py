"""A router process: its fleet port, its doors, and how it starts, drains and stops."""

from __future__ import annotations

import asyncio
import logging
import secrets
from pathlib import Path

import grpc
import msgspec

from router.access.exposure import warnings
from router.access.gate import Gate
from router.access.keys import KeyFile
from router.conductor import Conductor
from router.config import RouterConfig
from router.doors import Doors
from router.fleet import Fleet
from router.metrics import RouterMetrics
from router.text.model_card import read_model_card
from router.text.tokenizer import Tokenizer
from runtime.fleet import FleetService
from runtime.listen import bind
from runtime.session import SERVER_OPTIONS

log = logging.getLogger("tandem.router")


class RouterAddresses(msgspec.Struct, frozen=True, kw_only=True):
    """host:port of each listener."""

    router_id: str
    model: str
    grpc: str
    http: str
    fleet: str
    admin: str | None = None


class RouterServer:
    """start → drain → stop, once each. Raises StartError when the model, or the file of keys,
    cannot be read."""

    def __init__(self, config: RouterConfig) -> None:
        self._config = config
        self.router_id = f"router-{secrets.token_hex(4)}"
        card = read_model_card(Path(config.model_dir), config.model)
        self.fleet = Fleet(
            self.router_id,
            card.name,
            open_timeout_s=config.open_timeout_s,
            index_max_entries=config.index_max_entries,
            tls=config.tls,
        )
        metrics = RouterMetrics(self.fleet)
        self.conductor = Conductor(config, card, Tokenizer(card), self.fleet, metrics)
        keys = None if config.keys_file is None else KeyFile(config.keys_file)
        self._gate = Gate(keys)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> RouterAddresses:
        """Bind all ports and serve. Raises PortTaken, BadCertificate; then nothing stays bound."""
        config = self._config
        self._doors = Doors(self.conductor, self._gate)
        self._fleet_server = grpc.aio.server(options=SERVER_OPTIONS)
        service = FleetService(self.router_id, self.fleet.join, config.tls)
        self._fleet_server.add_generic_rpc_handlers([service])
        try:
            fleet_port = bind(
                self._fleet_server, config.host, config.fleet_port, "fleet_port", config.tls
            )
            ports = await self._doors.start()
            self.fleet.on_change = self._show_readiness
            await self._fleet_server.start()
        except BaseException:
            await self.stop()
            raise
        for warning in warnings(config):
            log.warning("%s", warning)
        return RouterAddresses(
            router_id=self.router_id,
            model=self.conductor.card.name,
            grpc=f"{config.host}:{ports.grpc}",
            http=f"{config.host}:{ports.http}",
            fleet=f"{config.host}:{fleet_port}",
            admin=None if ports.admin is None else f"{config.admin_host}:{ports.admin}",
        )

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests, let the others end. False when some are left after `timeout_s`."""
        self.conductor.draining = True
        await self._doors.set_ready(False)
        return await self.conductor.wait_idle(timeout_s)

    async def stop(self) -> None:
        """End everything; requests that still run fail, and are cancelled on their workers."""
        self.conductor.draining = True
        self.conductor.stop_all()
        await self.conductor.wait_idle(1.0)
        await self._doors.stop()
        await self._fleet_server.stop(0)
        await self.fleet.close()
        await asyncio.gather(*self._tasks)

    def _show_readiness(self) -> None:
        task = asyncio.create_task(self._doors.set_ready(self.conductor.ready))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
