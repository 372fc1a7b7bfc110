"""Waits until a process that can write into our memory by itself cannot do so any more.

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
from pathlib import Path

from wire.identity import ProcessRef

log = logging.getLogger(__name__)


def this_process() -> ProcessRef:
    """Its host is this boot of this machine, and the pids that are seen here."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    pids = Path("/proc/self/ns/pid").stat().st_ino
    return ProcessRef(f"{boot}/{pids:x}", os.getpid())


class Guard:
    """Made while the process lives, so that no other process is ever taken for it.

    For a process on another host, or of no direct access, there is nothing to wait for.
    """

    def __init__(self, process: ProcessRef | None, *, direct_access: bool) -> None:
        self._pidfd: int | None = None
        self._process = process
        self._quiet = asyncio.Event()
        if direct_access and process is not None and process.host == this_process().host:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                self._pidfd = os.pidfd_open(process.pid)

    def told_quiet(self) -> None:
        """The process itself says that no write of it is under way."""
        self._quiet.set()

    async def wait(self, patience_s: float) -> None:
        """Return when the process has ended or is quiet; after `patience_s`, kill it."""
        if self._pidfd is None:
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pidfd, self._quiet.set)
        try:
            async with asyncio.timeout(patience_s):
                await self._quiet.wait()
        except TimeoutError:
            await self._kill(patience_s)
        finally:
            loop.remove_reader(self._pidfd)

    def close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    async def _kill(self, patience_s: float) -> None:
        assert self._pidfd is not None
        assert self._process is not None
        log.warning(
            "process %d neither answers nor ends, and might still write into this worker's "
            "memory: it is killed after %g s",
            self._process.pid,
            patience_s,
        )
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        await self._quiet.wait()
