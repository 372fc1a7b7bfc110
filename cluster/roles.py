"""Creates a worker, for Ray actors and processes alike; it has the policies of both roles."""

from __future__ import annotations

from collections.abc import Callable

import decode_worker.scheduler
import prefill_worker.scheduler
from wire.identity import Role
from worker.build import MakePolicies
from worker.config import WorkerConfig
from worker.host import Worker

POLICIES: MakePolicies = {
    Role.PREFILL: prefill_worker.scheduler.make_policy,
    Role.DECODE: decode_worker.scheduler.make_policy,
}


def make_worker(
    role: Role,
    config: WorkerConfig,
    *,
    on_crash: Callable[[Exception], None],
    progress: Callable[[int, int], None],
) -> Worker:
    return Worker(config, role, POLICIES, on_crash=on_crash, progress=progress)
