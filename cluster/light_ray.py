"""A Ray of this process's own, for a cluster on one machine."""

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

    Ray takes 127.0.0.1 for a name of the machine's other address, and listens everywhere, unless
    clusters of several machines are switched off, as they are on macOS. Its children are told by
    the environment.

    On a busy machine Ray's own processes may not find each other in the time that it gives them
    (30 s), or meet on a port; what did start is ended then, and Ray is started anew.

    Args:
        init: What starts it.
        options: For it, beyond those above.

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
            raise  # an option that it does not take is none the next time either
        except Exception as error:  # Ray raises nothing narrower
            ray.shutdown()
            _end(_children() - before)
            if attempt == ATTEMPTS:
                raise StartFailed(
                    f"Ray did not start on this machine in {ATTEMPTS} attempts: {error} "
                    f"(its logs are in {LOGS}; `--without-ray` starts without it)"
                ) from error


def _children(threads: Path = Path("/proc/self/task")) -> set[int]:
    """Of all threads of this process; one may end while it is asked."""
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
