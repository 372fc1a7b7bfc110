"""How many files and sockets a process may have open: as many as it is allowed to."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
from collections.abc import Callable

LOOK_EVERY_S = 1.0
log = logging.getLogger("tandem.descriptors")
MOST = 1 << 20
"""Where there is no limit; the kernel's own for one process."""


def raise_descriptor_limit() -> int:
    """Set the soft limit, 1,024 almost everywhere, to the hard one; the limit that holds then.

    Children inherit it. A connection of a client is one descriptor, of a worker several.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            return soft  # a sandbox may forbid what the limit allows
        return wanted
    return soft


def one_is_free() -> bool:
    """Whether the process could open one more."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return False
        raise
    return True


async def watch_descriptors(
    has_one: Callable[[], bool] = one_is_free, every_s: float = LOOK_EVERY_S
) -> None:
    """Log, until cancelled, that the limit was reached: listeners do not tell, they only close what
    they accept, and try again a second later."""
    reached = False
    while True:
        if reached != (not has_one()):
            reached = not reached
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            if reached:
                log.error(
                    "all %d descriptors are in use, and new connections are refused: raise the "
                    "hard limit (ulimit -Hn, LimitNOFILE), or let more routers share the clients",
                    limit,
                )
            else:
                log.warning("descriptors are free again, new connections are accepted")
        await asyncio.sleep(every_s)
