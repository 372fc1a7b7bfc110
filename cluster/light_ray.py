"""A light Ray: started by this process, for a cluster on one machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from cluster.errors import StartFailed
from runtime.address import LOOPBACK

ATTEMPTS = 3
LOGS = "/tmp/ray/session_latest/logs"


def start_light_ray(init: Callable[..., Any] = ray.init, **options: Any) -> None:
    """Start Ray without a dashboard, on loopback only.

    Ray replaces 127.0.0.1 by another address of the machine, and listens on all of them, unless
    clusters of several machines are disabled, as they are on macOS. An environment variable
    disables them in Ray's child processes too.

    On a busy machine Ray's own processes may not find each other within Ray's 30 s, or two may
    choose the same port; all of them are then killed, and Ray is started again.

    Args:
        init: Starts Ray.
        options: Further options for `init`.

    Raises:
        StartFailed: It did not start in `ATTEMPTS` attempts.
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    for attempt in range(1, ATTEMPTS + 1):
        before = _children()
        try:
            init(include_dashboard=False, _node_ip_address=LOOPBACK, **options)
            return
        except KeyboardInterrupt:
            _end(_children() - before)
            raise
        except (TypeError, ValueError):
            raise  # an invalid option is no better the second time
        except Exception as error:  # Ray raises nothing narrower
            ray.shutdown()
            _end(_children() - before)
            if attempt == ATTEMPTS:
                raise StartFailed(
                    f"Ray did not start on this machine in {ATTEMPTS} attempts: {error} "
                    f"(its logs are in {LOGS}; `--without-ray` starts without it)"
                ) from error


def _children(threads: Path = Path("/proc/self/task")) -> set[int]:
    """Ids of the child processes of all threads; a thread may end meanwhile."""
    found: set[int] = set()
    for thread in threads.iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            found.update(map(int, thread.joinpath("children").read_text().split()))
    return found


def _end(process_ids: set[int]) -> None:
    for process_id in process_ids:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(process_id, signal.SIGKILL)
            os.waitpid(process_id, 0)
