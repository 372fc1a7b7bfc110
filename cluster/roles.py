"""Creates a worker of either role, for Ray actors and processes alike."""

from __future__ import annotations

from collections.abc import Callable

import decode_worker.scheduler
import prefill_worker.scheduler
from wire.identity import Role
from worker.build import MakePolicy
from worker.config import WorkerConfig
from worker.host import Worker


def make_worker(
    role: Role,
    config: WorkerConfig,
    *,
    on_crash: Callable[[Exception], None],
    progress: Callable[[int, int], None],
) -> Worker:
    make_policy: MakePolicy = decode_worker.scheduler.make_policy
    if role is Role.PREFILL:
        make_policy = prefill_worker.scheduler.make_policy
    return Worker(config, role, make_policy, on_crash=on_crash, progress=progress)
