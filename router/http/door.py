"""The HTTP door: a listener of its own, which clients cannot hold up."""

from __future__ import annotations

from starlette.types import ASGIApp

from router.http.protocol import BoundedProtocol
from runtime.http import HttpServer
from runtime.tls import DoorTls


class HttpDoor(HttpServer):
    """`start` binds and serves, `stop` ends; answers under way are cut off then."""

    def __init__(
        self, app: ASGIApp, *, share_port: bool = False, tls: DoorTls | None = None
    ) -> None:
        super().__init__(app, protocol=BoundedProtocol, share_port=share_port, tls=tls)

    async def start(self, host: str, port: int, key: str = "http_port") -> int:
        """The port that was bound. Raises PortTaken, BadCertificate."""
        return await super().start(host, port, key)
