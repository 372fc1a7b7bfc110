"""A file lock between processes, released when its holder dies."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_PAUSE_S = 0.05


@contextmanager
def only_one(path: Path, limit_s: float, others: str = "its holder") -> Iterator[None]:
    """Hold an exclusive lock on this file.

    The system releases it when its holder dies. After a timeout of `limit_s` seconds a waiting
    process goes on without the lock: a hung holder blocks nobody for good. `others` describes the
    holder in log lines.
    OSError where the file cannot be made; where a file system has no locks there is none.
    """
    with path.open("w") as file:
        _wait(file.fileno(), path, limit_s, others)
        yield


def _wait(file: int, path: Path, limit_s: float, others: str) -> None:
    end, told = time.monotonic() + limit_s, False
    while time.monotonic() < end:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                log.info("waiting for %s: %s", others, path)
            told = True
            time.sleep(_PAUSE_S)
        except OSError as error:
            log.warning("%s cannot be locked: %s", path, error)
            return
    log.warning("%s was held for %.0f s: going on without it", path, limit_s)
