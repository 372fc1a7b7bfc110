"""The doors of a router together: gRPC and HTTP for clients, and one for the operator."""

from __future__ import annotations

import asyncio

import msgspec

from router.access.gate import Gate
from router.conductor import Conductor
from router.grpc_api.door import GrpcDoor
from router.http.app import build_app
from router.http.gate import ADMIN_PATHS, AdminGate, PublicGate
from runtime.address import is_loopback
from runtime.http.server import HttpServer
from runtime.listen import claimed_port


class DoorPorts(msgspec.Struct, frozen=True, kw_only=True):
    grpc: int
    http: int
    admin: int | None


class Doors:
    """`start` binds all of them or raises; `stop` ends whatever has started."""

    def __init__(self, conductor: Conductor, gate: Gate) -> None:
        self._config = config = conductor.config
        app = build_app(conductor)
        public = PublicGate(
            app,
            gate,
            conductor.metrics,
            body_timeout_s=config.body_timeout_s,
            hidden=ADMIN_PATHS if config.admin_port is not None else frozenset(),
        )
        self._grpc = GrpcDoor(conductor, gate)
        self._http = HttpServer(public, share_port=config.share_ports, tls=config.door_tls)
        outside = not is_loopback(config.admin_host)
        self._admin = HttpServer(
            AdminGate(app, gate, asks_for_keys=outside),
            tls=config.door_tls if outside else None,
        )

    async def start(self) -> DoorPorts:
        """Raises PortTaken, BadCertificate."""
        config = self._config
        if not config.share_ports or config.join_ports:
            return await self._start()
        with (
            claimed_port(config.host, config.http_port, "http_port"),
            claimed_port(config.host, config.grpc_port, "grpc_port"),
        ):
            return await self._start()

    async def _start(self) -> DoorPorts:
        config, admin = self._config, None
        http = await self._http.start(config.host, config.http_port, "http_port")
        if config.admin_port is not None:
            admin = await self._admin.start(config.admin_host, config.admin_port, "admin_port")
        grpc = await self._grpc.start(config.host, config.grpc_port)
        return DoorPorts(grpc=grpc, http=http, admin=admin)

    async def show_readiness(self) -> None:
        """Who watches the health of the gRPC door hears it."""
        await self._grpc.show_readiness()

    async def announce_drain(self, grace_s: float) -> None:
        """Health checks fail, and answers ask clients to connect again. Returns after the grace, or
        when no HTTP client is left: gRPC's are told by `retire`, and lose nothing by it."""
        await self.show_readiness()
        self._http.close_after_answers()
        await self._http.wait_unconnected(grace_s)

    def retire(self, timeout_s: float) -> None:
        """Clients go elsewhere: nothing listens any more, idle connections are closed, those with
        requests under way after them; calls may take `timeout_s`. The admin port stays."""
        self._http.retire()
        self._grpc.retire(timeout_s)

    async def stop(self) -> None:
        await asyncio.gather(self._grpc.stop(0.5), self._http.stop(), self._admin.stop())
