"""DNS names with several addresses: follows the addresses as they change."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from runtime.address import is_address, join_address

LOOKUP_EVERY_S = 5.0
log = logging.getLogger(__name__)

Lookup = Callable[[str], Awaitable[frozenset[str]]]


async def for_each_address(
    target: str,
    serve: Callable[[str], Coroutine[Any, Any, None]],
    *,
    lookup: Lookup | None = None,
    every_s: float = LOOKUP_EVERY_S,
) -> None:
    """Run `serve("host:port")` for every address of `target`, until cancelled.

    The name is looked up periodically, as for a headless service: a new address gets a task, a
    vanished one's is cancelled. If a look-up fails, the known addresses stay.
    """
    host, _, port = target.rpartition(":")
    if is_address(host):
        await serve(target)
        return
    running: dict[str, asyncio.Task[None]] = {}
    logged: str | None = None
    try:
        while True:
            try:
                found = await (lookup or _addresses)(host)
            except OSError as error:
                if str(error) != logged:
                    log.warning("cannot resolve %s: %s", host, error)
                logged = str(error)
            else:
                logged = None
                _update_tasks(running, {join_address(address, port) for address in found}, serve)
            await asyncio.sleep(every_s if running else min(1.0, every_s))
    finally:
        _update_tasks(running, set(), serve)


def _update_tasks(
    running: dict[str, asyncio.Task[None]],
    wanted: set[str],
    serve: Callable[[str], Coroutine[Any, Any, None]],
) -> None:
    for address in running.keys() - wanted:
        running.pop(address).cancel()
    for address in sorted(wanted - running.keys()):
        running[address] = asyncio.create_task(serve(address), name=f"serve {address}")


async def _addresses(host: str) -> frozenset[str]:
    """The IPv4 addresses of the name, or else its IPv6 addresses. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    ipv4 = {info[4][0] for info in found if info[0] is socket.AF_INET}
    return frozenset(map(str, ipv4)) or frozenset(str(info[4][0]) for info in found)
