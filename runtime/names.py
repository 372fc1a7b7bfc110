"""Names that stand for several processes: each of their addresses is found, and found again."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from runtime.address import is_address, join_address

LOOK_UP_EVERY_S = 5.0
log = logging.getLogger(__name__)

LookUp = Callable[[str], Awaitable[frozenset[str]]]


async def for_each_address(
    target: str,
    serve: Callable[[str], Coroutine[Any, Any, None]],
    *,
    look_up: LookUp | None = None,
    every_s: float = LOOK_UP_EVERY_S,
) -> None:
    """Run `serve("host:port")` for every address behind `target`, until cancelled.

    A name is looked up again and again, as a headless service's is: whoever joins it is served,
    whoever leaves it is no more. While it cannot be looked up, those of before go on.
    """
    host, _, port = target.rpartition(":")
    if is_address(host):
        await serve(target)
        return
    running: dict[str, asyncio.Task[None]] = {}
    told: str | None = None
    try:
        while True:
            try:
                found = await (look_up or _addresses)(host)
            except OSError as error:
                if str(error) != told:
                    log.warning("%s cannot be looked up: %s", host, error)
                told = str(error)
            else:
                told = None
                _match(running, {join_address(address, port) for address in found}, serve)
            await asyncio.sleep(every_s if running else min(1.0, every_s))
    finally:
        _match(running, set(), serve)


def _match(
    running: dict[str, asyncio.Task[None]],
    wanted: set[str],
    serve: Callable[[str], Coroutine[Any, Any, None]],
) -> None:
    for address in running.keys() - wanted:
        running.pop(address).cancel()
    for address in sorted(wanted - running.keys()):
        running[address] = asyncio.create_task(serve(address), name=f"serve {address}")


async def _addresses(host: str) -> frozenset[str]:
    """IPv4 where the name has it, else IPv6. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    short = {info[4][0] for info in found if info[0] is socket.AF_INET}
    return frozenset(map(str, short)) or frozenset(str(info[4][0]) for info in found)
