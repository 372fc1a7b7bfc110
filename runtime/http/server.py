"""An HTTP server: a listener of its own, and the connections that came from it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from runtime.http.asgi import App
from runtime.http.connection import Connection, Shared
from runtime.listen import open_listener
from runtime.tls import DoorTls
from runtime.tls_doors import door_context

STOP_S = 1.0
"""How long `stop` waits for answers that end, and for clients to read them."""


class HttpServer:
    """`start` binds and serves, `retire` lets clients go, `stop` ends; answers under way are cut
    off then."""

    def __init__(self, app: App, *, share_port: bool = False, tls: DoorTls | None = None) -> None:
        self._shared = Shared(app)
        self._share_port = share_port
        self._tls = tls
        self._server: asyncio.Server | None = None

    @property
    def num_connections(self) -> int:
        return len(self._shared.connections)

    @property
    def num_requests(self) -> int:
        """Requests whose application has not ended."""
        return len(self._shared.tasks)

    async def start(self, host: str, port: int, key: str) -> int:
        """The port that was bound; `key` is its setting. Raises PortTaken, BadCertificate."""
        context = None if self._tls is None else door_context(self._tls)
        listener = open_listener(host, port, key=key, shared=self._share_port)
        bound = int(listener.getsockname()[1])
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._shared), sock=listener, ssl=context
        )
        return bound

    def close_after_answers(self) -> None:
        """Answers say `Connection: close` from now on, so that clients connect elsewhere next."""
        self._shared.closing = True

    def retire(self) -> None:
        """No more connections. Idle ones are closed, the others after their answer."""
        self.close_after_answers()
        if self._server is not None:
            self._server.close()
        for connection in list(self._shared.connections):
            connection.retire()

    async def wait_unconnected(self, timeout_s: float) -> None:
        """Until no client is connected, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._shared.unconnected.wait()

    async def stop(self) -> None:
        self.retire()
        for connection in list(self._shared.connections):
            connection.finish()
        await self.wait_unconnected(STOP_S)  # what was written is still on its way
        for connection in list(self._shared.connections):
            connection.abort()
        for task in self._shared.tasks:
            task.cancel()
        await asyncio.gather(*self._shared.tasks, return_exceptions=True)
