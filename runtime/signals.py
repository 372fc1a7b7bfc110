"""Stop signals as an awaitable."""

from __future__ import annotations

import asyncio
import signal


async def stop_signal() -> signal.Signals:
    """Wait for SIGTERM, SIGINT or SIGHUP; an ignored SIGHUP, as under nohup, stays ignored.

    Must run in the main thread's event loop.
    """
    loop = asyncio.get_running_loop()
    received: asyncio.Future[signal.Signals] = loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        if not received.done():
            received.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
            continue
        loop.add_signal_handler(number, on_signal, number)
    return await received
