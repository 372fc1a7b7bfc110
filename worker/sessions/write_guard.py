"""Waits until processes with direct access to this worker's memory cannot write into it any more.

Workers on one host may copy by direct access to each other's memory. Then nothing but its end keeps
a stopped process from writing when it is continued. This process may kill it: for that the kernel
asks for the same rights as for access to memory.
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
    """Watches all processes of a source. Made while they live, so that no reused pid is mistaken
    for one of them.

    Processes on other hosts, or without direct access, need not be waited for.
    """

    def __init__(self, processes: Iterable[ProcessRef], *, direct_access: bool) -> None:
        self._pidfds: dict[int, int] = {}
        """File descriptors of the processes, by pid."""
        self._quiet = asyncio.Event()
        host = this_process().host
        for process in processes:
            if direct_access and process.host == host:
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    self._pidfds[process.pid] = os.pidfd_open(process.pid)

    def set_quiet(self) -> None:
        """The source has said that no write of it is under way."""
        self._quiet.set()

    async def wait(self, timeout_s: float) -> None:
        """Return when the source is quiet or all its processes have ended; after `timeout_s` those
        that are left are killed."""
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
            async with asyncio.timeout(timeout_s):
                await self._quiet.wait()
        except TimeoutError:
            for pid, pidfd in living.items():
                _kill(pid, pidfd, timeout_s)
            await self._quiet.wait()
        finally:
            for pidfd in living.values():
                loop.remove_reader(pidfd)

    def close(self) -> None:
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()


def _kill(pid: int, pidfd: int, timeout_s: float) -> None:
    log.warning(
        "process %d neither answers nor ends, and might still write into this worker's "
        "memory: it is killed after %g s",
        pid,
        timeout_s,
    )
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
