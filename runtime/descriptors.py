"""File descriptor limits: raises the soft limit, and logs when it is exhausted."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
from collections.abc import Callable

CHECK_EVERY_S = 1.0
log = logging.getLogger("tandem.descriptors")
MAX_DESCRIPTORS = 1 << 20
"""The limit to set where the hard limit is infinite; the kernel's default maximum per process."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit, usually 1,024, to the hard limit; returns the limit that is in effect.

    Child processes inherit it. A client's connection takes one descriptor, a worker's several.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            return soft  # a sandbox may forbid what the limit allows
        return wanted
    return soft


def has_free_descriptor() -> bool:
    """Whether the process can open another file."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return False
        raise
    return True


async def watch_descriptors(
    has_free: Callable[[], bool] = has_free_descriptor, every_s: float = CHECK_EVERY_S
) -> None:
    """Log when the limit is reached, until cancelled.

    Listeners do not log it: they close what they accept, and try again a second later.
    """
    reached = False
    while True:
        if reached != (not has_free()):
            reached = not reached
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            if reached:
                log.error(
                    "all %d file descriptors are in use, and new connections are refused: raise "
                    "the hard limit (ulimit -Hn, LimitNOFILE), or run more routers",
                    limit,
                )
            else:
                log.warning("file descriptors are free again: new connections are accepted")
        await asyncio.sleep(every_s)
