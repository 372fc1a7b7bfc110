"""Creates a worker of either role, for Ray actors and processes alike."""

from __future__ import annotations

from collections.abc import Callable

import decode_worker.scheduler
import prefill_worker.scheduler
from engine.schedule.policy import Policy
from wire.identity import Role
from worker.config import WorkerConfig
from worker.host import Worker


def make_worker(
    role: Role,
    config: WorkerConfig,
    *,
    on_crash: Callable[[Exception], None],
    progress: Callable[[int, int], None],
) -> Worker:
    return Worker(config, role, _make_policy(role, config), on_crash=on_crash, progress=progress)


def _make_policy(role: Role, config: WorkerConfig) -> Policy:
    if role is Role.PREFILL:
        return prefill_worker.scheduler.make_policy(config)
    return decode_worker.scheduler.make_policy(config)
