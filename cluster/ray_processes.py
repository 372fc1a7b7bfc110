"""Routers and workers as Ray actors, seen from the driver."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError

from cluster.errors import NoStatus
from cluster.launcher import WorkerStatus
from cluster.ray_bundles import ReservedBundle, ReservedBundles
from router.config import RouterAddresses
from router.roles.model_status import StatusBody

ANSWER_S = 1.0
REPORT_AFTER_S = 2.0
"""Waiting time for resources, after which the shortage is reported."""


class RayRouter:
    """Implements `cluster.launcher.RunningRouter`."""

    def __init__(self, name: str, actor: Any, addresses: RouterAddresses) -> None:
        self.name = name
        self.addresses = addresses
        self.fleet = addresses.fleet
        self._actor = actor
        self._stopping: Any = None

    def error(self) -> str | None:
        try:
            ray.get(self._actor.ping.remote(), timeout=ANSWER_S)
        except (GetTimeoutError, ActorUnavailableError):
            return None  # busy, or Ray does not know yet
        except RayError as error:
            return f"its process died: {cause_of(error)}"
        return None

    def model_status(self) -> StatusBody:
        try:
            told: bytes = ray.get(self._actor.model_status.remote(), timeout=ANSWER_S)
        except RayError as error:
            raise NoStatus(f"{self.name} does not tell its status: {cause_of(error)}") from error
        return msgspec.json.decode(told, type=StatusBody)

    def drain(self, timeout_s: float) -> None:
        self._stopping = self._actor.drain.remote(timeout_s)

    def wait_stopped(self, timeout_s: float) -> None:
        if self._stopping is not None:
            ray.wait([self._stopping], timeout=timeout_s)  # dead or stuck: it is ended either way
        ray.kill(self._actor)


class RayWorker:
    """Implements `cluster.launcher.RunningWorker`: waits for its placement group, then starts the
    actor."""

    def __init__(
        self,
        name: str,
        bundles: ReservedBundles,
        bundle: ReservedBundle,
        start: Callable[[ReservedBundle], Any],
        place_timeout_s: float,
        keys: str,
    ) -> None:
        """`start` creates the actor once the bundle is placed; `keys` is the pool's path in the
        configuration."""
        self.name = name
        self._bundles = bundles
        self._bundle = bundle
        self._start = start
        self._place_timeout_s = place_timeout_s
        self._keys = keys
        self._actor: Any = start(bundle) if bundle.placed is not None else None
        self._last = WorkerStatus()
        self._stopping: Any = None

    @property
    def node_id(self) -> str | None:
        return None if self._bundle.placed is None else self._bundle.placed.node_id

    def status(self) -> WorkerStatus:
        if self._actor is None and not self._try_to_start():
            return self._last
        try:
            answer = ray.get(self._actor.status.remote(), timeout=ANSWER_S)
        except (GetTimeoutError, ActorUnavailableError):
            return self._last  # busy, or its process still starts, or Ray does not know yet
        except RayError as error:
            return msgspec.structs.replace(self._last, error=f"its process died: {cause_of(error)}")
        self._last = msgspec.json.decode(answer, type=WorkerStatus)
        return self._last

    def drain(self, timeout_s: float) -> None:
        if self._actor is not None and self.status().address is not None:
            self._stopping = self._actor.drain.remote(timeout_s)

    def has_stopped(self) -> bool:
        """Whether draining has ended; True at once for a worker that did not serve yet."""
        if self._stopping is None:
            return True
        ended, _ = ray.wait([self._stopping], timeout=0)
        return bool(ended)

    def wait_stopped(self, timeout_s: float) -> None:
        if self._stopping is not None:
            ray.wait([self._stopping], timeout=timeout_s)
        if self._actor is not None:
            ray.kill(self._actor)
        self._bundles.release(self._bundle)

    def _try_to_start(self) -> bool:
        if self._bundle.is_placed():
            self._actor = self._start(self._bundle)
            return True
        waited_s = time.monotonic() - self._bundle.requested_at
        if waited_s > self._place_timeout_s:
            why = self._bundles.explain_shortage(self._bundle, self._keys)
            self._last = WorkerStatus(
                error=f"no resources within {self._place_timeout_s:.0f} s: it {why}"
            )
        elif waited_s > REPORT_AFTER_S and self._last.waits_for is None:
            self._last = WorkerStatus(
                waits_for=self._bundles.explain_shortage(self._bundle, self._keys)
            )
        return False


def cause_of(error: Exception) -> str:
    """The line that says what a user can act on, without Ray's traceback."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{cause}"
    lines = str(error).strip().splitlines()
    # An actor whose class could not even be imported: the first line only says that it has died.
    died = isinstance(error, RayActorError) and not error.actor_init_failed
    return lines[0] if died else lines[-1]
