"""Authentication of HTTP requests, before anything is read, and the timeout for their bodies."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.access.caller import CALLER, Caller
from router.access.gate import Gate
from router.errors import NoSuchRoute, RouterError, TooSlow
from router.http.asgi import send_json
from router.metrics import RouterMetrics
from router.openai.headers import echoed_id, error_headers, read_head
from router.openai.response_writer import error_body

OPEN_PATHS = frozenset({"/health", "/ping"})
"""Paths without authentication, for load balancers and probes."""
CHANGING_PATHS = frozenset({"/roles"})
"""Admin paths that change how everybody is served: on the admin port only."""
ADMIN_PATHS = frozenset({"/metrics", "/load", "/status"}) | CHANGING_PATHS
"""Paths that show data of all clients: on the admin port if there is one; otherwise they need a key
with `admin: true` if keys are required."""
ANSWER_PATHS = {"/v1/completions": False, "/v1/chat/completions": True}
"""Paths that metrics count, and whether they are chats."""


class PublicGate:
    """Wraps the public application. `hidden` paths do not exist there."""

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        metrics: RouterMetrics,
        *,
        body_timeout_s: float,
        hidden: frozenset[str] = frozenset(),
    ) -> None:
        self._app = app
        self._gate = gate
        self._metrics = metrics
        self._body_timeout_s = body_timeout_s
        self._hidden = hidden

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        counted = scope["method"] == "POST"
        try:
            caller = self._caller(scope)
            if counted:
                caller.enter()
        except RouterError as error:
            if counted and scope["path"] in ANSWER_PATHS:
                self._metrics.refused("http", error)
            await _refuse(scope, send, error)
            return
        CALLER.set(caller)
        try:
            await self._app(scope, _in_time(receive, self._body_timeout_s), send)
        finally:
            if counted:
                caller.leave()

    def _caller(self, scope: Scope) -> Caller:
        path, shown = scope["path"], authorization(scope)
        if path in ADMIN_PATHS and path not in self._hidden:
            return self._gate.admin(shown)
        caller = self._gate.caller(shown)
        if path in self._hidden:
            raise NoSuchRoute(f"{path} is on the admin port, router.admin_port", 404)
        return caller


class AdminGate:
    """Wraps the same application for the admin port, which has the admin paths only."""

    def __init__(self, app: ASGIApp, gate: Gate, *, requires_keys: bool) -> None:
        self._app = app
        self._gate = gate
        self._asks_for_keys = requires_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
                self._check(scope)
        except RouterError as error:
            await _refuse(scope, send, error)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        if self._asks_for_keys:
            self._gate.admin(authorization(scope))
        if scope["path"] not in ADMIN_PATHS:
            raise NoSuchRoute(f"{scope['path']} is not on the admin port", 404)


def authorization(scope: Scope) -> str | None:
    """The value of the Authorization header."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            return bytes(value).decode("latin-1")
    return None


def _in_time(receive: Receive, timeout_s: float) -> Receive:
    """`receive`, raising TooSlow if the body is not complete after `timeout_s`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    complete = False

    async def receive_in_time() -> Message:
        nonlocal complete
        if complete:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise TooSlow(f"the request's body did not arrive within {timeout_s:g} s") from None
        complete = not message.get("more_body", False)
        return message

    return receive_in_time


async def _refuse(scope: Scope, send: Send, error: RouterError) -> None:
    status, body = error_body(error)
    name = echoed_id(read_head(scope["headers"]).request_id)
    await send_json(send, status, body, *name, *error_headers(error))
