"""An HTTP listener of its own, and uvicorn behind it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn

from runtime.listen import open_listener
from runtime.tls import DoorTls
from runtime.tls_doors import door_context

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
IDLE_S = 75
"""How long a connection may wait for its next request: longer than clients and proxies keep theirs,
or a request meets a connection that is just being closed."""


class HttpServer:
    """`start` binds and serves, `stop` ends; answers under way are cut off then.

    `protocol` is one of uvicorn's, which reads requests and writes answers.
    """

    def __init__(
        self,
        app: App,
        *,
        protocol: Any = "auto",
        share_port: bool = False,
        tls: DoorTls | None = None,
    ) -> None:
        self._app = app
        self._protocol = protocol
        self._share_port = share_port
        self._tls = tls
        self._server: _Uvicorn | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, key: str) -> int:
        """The port that was bound; `key` is its setting. Raises PortTaken, BadCertificate."""
        context = None if self._tls is None else door_context(self._tls)
        listener = open_listener(host, port, key=key, shared=self._share_port)
        self._server = _Uvicorn(self._config(context))
        self._serving = asyncio.create_task(
            self._server.serve(sockets=[listener]), name=f"HTTP at {key}"
        )
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None and self._serving is not None:
            self._server.stopping.set()
            await self._serving

    def _config(self, context: ssl.SSLContext | None) -> uvicorn.Config:
        return uvicorn.Config(
            self._app,
            http=self._protocol,
            ssl_context_factory=None if context is None else lambda config, default: context,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=IDLE_S,
        )


class _Uvicorn(uvicorn.Server):
    """Signals belong to the process, not to one of its doors; it ends as soon as it is told."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        second = 0
        while not await self.on_tick(10 * second):  # uvicorn counts tenths
            second += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.stopping.wait()
                    self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
