"""ASGI helpers: bodies with a size limit, JSON responses, and tasks that end with their client."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from router.errors import ClientGone, TooLarge
from router.http.encoding import decoder

Headers = list[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The body, decompressed.

    Raises TooLarge as soon as the limit is exceeded, ClientGone if the client disconnects,
    UnknownEncoding, InvalidRequest.
    """
    declared = int(_header(scope, b"content-length") or b"0")
    reads = decoder(_header(scope, b"content-encoding"))
    body = bytearray()
    more = True
    while more and max(len(body), declared) <= max_bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += reads.feed(message.get("body", b""), max_bytes - len(body))
        more = message.get("more_body", False)
    if max(len(body), declared) > max_bytes:
        raise TooLarge(f"the request's body is larger than {max_bytes} bytes")
    reads.end()
    return bytes(body)


def _header(scope: Scope, name: bytes) -> bytes:
    return b", ".join(value for each, value in scope["headers"] if each == name)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; if the client disconnects, cancel it and raise ClientGone."""
    task = asyncio.create_task(work, name="answer to an HTTP client")
    watch = asyncio.create_task(_disconnected(receive), name="watch of an HTTP client")
    try:
        await asyncio.wait([task, watch], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        task.result()
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_start(send: Send, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def send_chunk(send: Send, content: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": more})


async def send_json(
    send: Send, status: int, body: msgspec.Struct, *headers: tuple[bytes, bytes]
) -> None:
    content = msgspec.json.encode(body)
    length = (b"content-length", str(len(content)).encode())
    await send_start(send, status, [JSON, length, *headers])
    await send_chunk(send, content, more=False)
