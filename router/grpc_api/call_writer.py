"""Writes the messages of one call in order and one at a time, as gRPC requires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import grpc

from router.grpc_api.grpc_responses import GrpcResponses
from router.requests.request import Delta


class CallWriter:
    """Implements DeltaWriter: `write` starts a write of gRPC, which leaves before it waits, and no
    task is needed to wait for the rest. Until that write is done, the writer is not ready.

    A write is never cancelled with the task that serves the call: gRPC would forget that it has
    sent the call's headers, send them again with the status, and never end the call.
    """

    def __init__(self, context: grpc.aio.ServicerContext, responses: GrpcResponses) -> None:
        self._on_ready: Callable[[], None] | None = None
        self._context = context
        self._response = responses.response
        self._begun = False
        self._waits_for: asyncio.Future[None] | None = None
        self._failure: Exception | None = None

    def ready(self) -> bool:
        return self._waits_for is None and self._failure is None

    def call_when_ready(self, callback: Callable[[], None], /) -> None:
        self._on_ready = callback

    @property
    def writing(self) -> bool:
        return self._waits_for is not None

    def write(self, delta: Delta) -> None:
        self._go_on(self._context.write(self._response(delta)))

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def wait_headers(self) -> None:
        """Wait until the call's headers have been sent, if a first write is pending."""
        while not self._begun and self._waits_for is not None:
            await asyncio.wait([self._waits_for])  # it is not cancelled with whoever waits here

    def _go_on(self, writing: Coroutine[Any, Any, None]) -> None:
        """Run a write to the next point where it waits, as a task of its own would."""
        self._waits_for = None
        try:
            waits_for = writing.send(None)
        except StopIteration:
            self._begun = True
            return
        self._waits_for = waits_for
        waits_for.add_done_callback(partial(self._wake, writing))

    def _wake(self, writing: Coroutine[Any, Any, None], _: asyncio.Future[None]) -> None:
        try:
            self._go_on(writing)
        except Exception as error:  # noqa: BLE001  # whoever writes next raises it
            self._failure = error
        finally:
            if self._waits_for is None:
                self._call_back()

    def _call_back(self) -> None:
        callback, self._on_ready = self._on_ready, None
        if callback is not None:
            callback()
