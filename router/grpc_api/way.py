"""One call's messages on their way to its client: in order and one at a time, as gRPC asks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

import grpc

from router.grpc_api.grpc_responses import GrpcResponses
from router.requests.request import Delta


class GrpcWay:
    """Implements `AnswerSink`: a message leaves in the call that brings it, and what its
    write waits for then needs no task. Until that has come, nothing else is `ready` to go."""

    def __init__(self, context: grpc.aio.ServicerContext, responses: GrpcResponses) -> None:
        self._context = context
        self._responses = responses
        self._begun = False
        self._waits_for: asyncio.Future[None] | None = None
        self._failure: Exception | None = None

    def ready(self) -> bool:
        return self._waits_for is None and self._begun and self._failure is None

    def take(self, delta: Delta) -> None:
        self._go_on(self._context.write(self._responses.response(delta)))

    async def write(self, delta: Delta) -> None:
        """When all before it has left. Raises what ended an earlier write.

        The write goes on when whoever waits here is cancelled: gRPC would forget that it has sent a
        call's headers, send them again with the status, and end the call never.
        """
        await self.rest()
        self._check()
        self._go_on(self._context.write(self._responses.response(delta)))
        await self.rest()
        self._check()
        self._begun = True

    async def headers(self) -> None:
        """Until they have been sent, if they are on their way."""
        if not self._begun:
            await self.rest()

    async def rest(self) -> None:
        """Until nothing is being written."""
        while self._waits_for is not None:
            await asyncio.wait([self._waits_for])  # it is not cancelled with whoever waits here

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _go_on(self, writing: Coroutine[Any, Any, None]) -> None:
        """To the next point where this write waits, as its task would if it had one."""
        self._waits_for = None
        try:
            waits_for = writing.send(None)
        except StopIteration:
            return
        self._waits_for = waits_for
        waits_for.add_done_callback(partial(self._wake, writing))

    def _wake(self, writing: Coroutine[Any, Any, None], _: asyncio.Future[None]) -> None:
        try:
            self._go_on(writing)
        except Exception as error:  # noqa: BLE001  # whoever writes next raises it
            self._failure = error
