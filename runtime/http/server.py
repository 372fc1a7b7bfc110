"""An HTTP server: its listener and its connections."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from runtime.http.asgi import App
from runtime.http.connection import Connection, Shared
from runtime.listen import open_listener
from runtime.server_tls import server_context
from runtime.tls import ServerTls

STOP_S = 1.0
"""Time in which `stop` waits for responses to end and to be read."""


class HttpServer:
    """An HTTP server. `start` binds and serves, `retire` closes connections gracefully, `stop` ends
    all."""

    def __init__(self, app: App, *, share_port: bool = False, tls: ServerTls | None = None) -> None:
        self._shared = Shared(app)
        self._share_port = share_port
        self._tls = tls
        self._server: asyncio.Server | None = None

    @property
    def num_connections(self) -> int:
        return len(self._shared.connections)

    @property
    def num_requests(self) -> int:
        """Requests whose application has not returned."""
        return len(self._shared.tasks)

    async def start(self, host: str, port: int, key: str) -> int:
        """Listen, and return the port; `key` is its setting. Raises PortTaken, BadCertificate."""
        context = None if self._tls is None else server_context(self._tls)
        listener = open_listener(host, port, key=key, shared=self._share_port)
        bound = int(listener.getsockname()[1])
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._shared), sock=listener, ssl=context
        )
        return bound

    def close_after_answers(self) -> None:
        """Send `Connection: close` with responses, so that clients reconnect elsewhere."""
        self._shared.closing = True

    def retire(self) -> None:
        """Accept no more connections. Idle ones are closed, others after their response."""
        self.close_after_answers()
        if self._server is not None:
            self._server.close()
        for connection in list(self._shared.connections):
            connection.retire()

    async def wait_unconnected(self, timeout_s: float) -> None:
        """Wait until no client is connected, at most for `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._shared.unconnected.wait()

    async def stop(self) -> None:
        self.retire()
        for connection in list(self._shared.connections):
            connection.finish()
        await self.wait_unconnected(STOP_S)  # written data may still be in flight
        for connection in list(self._shared.connections):
            connection.abort()
        for task in self._shared.tasks:
            task.cancel()
        await asyncio.gather(*self._shared.tasks, return_exceptions=True)
