"""Waits until processes that can write into our memory by themselves cannot do so any more.

Workers on one host may copy by direct access to each other's memory. Then nothing that happens
here keeps a stopped process from going on when it wakes up: only its end does. Who has access to
our memory may be ended by us, since the kernel asks for the same rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Iterable

from wire.identity import ProcessRef
from worker.rank.this_process import this_process

log = logging.getLogger(__name__)


class WriteGuard:
    """Over all processes of a source, made while they live: no other is ever taken for one of them.

    For a process on another host, or of no direct access, there is nothing to wait for.
    """

    def __init__(self, processes: Iterable[ProcessRef], *, direct_access: bool) -> None:
        self._pidfds: dict[int, int] = {}
        """By pid."""
        self._quiet = asyncio.Event()
        host = this_process().host
        for process in processes:
            if direct_access and process.host == host:
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    self._pidfds[process.pid] = os.pidfd_open(process.pid)

    def told_quiet(self) -> None:
        """The source itself says that no write of it is under way."""
        self._quiet.set()

    async def wait(self, patience_s: float) -> None:
        """Return when all have ended or are quiet; after `patience_s`, kill those who are left."""
        living = dict(self._pidfds)
        if not living:
            return
        loop = asyncio.get_running_loop()

        def ended(pid: int) -> None:
            loop.remove_reader(living.pop(pid))
            if not living:
                self._quiet.set()

        for pid, pidfd in self._pidfds.items():
            loop.add_reader(pidfd, ended, pid)
        try:
            async with asyncio.timeout(patience_s):
                await self._quiet.wait()
        except TimeoutError:
            for pid, pidfd in living.items():
                _kill(pid, pidfd, patience_s)
            await self._quiet.wait()
        finally:
            for pidfd in living.values():
                loop.remove_reader(pidfd)

    def close(self) -> None:
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()


def _kill(pid: int, pidfd: int, patience_s: float) -> None:
    log.warning(
        "process %d neither answers nor ends, and might still write into this worker's "
        "memory: it is killed after %g s",
        pid,
        patience_s,
    )
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
