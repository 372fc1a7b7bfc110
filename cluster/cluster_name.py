"""Cluster names on Ray: a named actor claims the name while its driver lives.

Ray creates a named actor at most once, and ends it with the job that created it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

import msgspec
import ray
from ray.exceptions import ActorAlreadyExistsError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import NameTaken

NAMESPACE = "tandem"
ANSWER_S = 10.0
ENDING_S = 10.0
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"


class Holder(msgspec.Struct, frozen=True):
    """The process that runs a cluster. `submission_id` is set when a submitted Ray job runs it."""

    host: str
    process_id: int
    started_at: str
    submission_id: str | None = None


class NameActor:
    """Holds a name, and tells who claimed it."""

    def __init__(self, holder: bytes) -> None:
        self._holder = holder

    def holder(self) -> bytes:
        return self._holder


def claim(name: str) -> Any:
    """Claim the name for as long as this process lives; returns the actor that holds it.

    Waits for a holder that is just ending. Raises NameTaken.
    """
    deadline = time.monotonic() + ENDING_S
    while True:
        try:
            return _hold(name)
        except ActorAlreadyExistsError:
            holder = _holder(name)
            if holder is not None or time.monotonic() > deadline:
                raise NameTaken(refusal(name, holder)) from None
        time.sleep(0.2)


def _hold(name: str) -> Any:
    # The actor runs on this process's node, and so never ends before it.
    here = ray.get_runtime_context().get_node_id()
    options = {
        "name": name,
        "namespace": NAMESPACE,
        "num_cpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False),
    }
    holder = msgspec.json.encode(_this_process())
    return ray.remote(NameActor).options(**options).remote(holder)


def _this_process() -> Holder:
    return Holder(
        host=socket.gethostname(),
        process_id=os.getpid(),
        started_at=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        submission_id=submission_id(),
    )


def submission_id() -> str | None:
    """The id of the submitted Ray job whose driver this process is."""
    job = json.loads(os.environ.get(JOB_CONFIG, "{}"))
    found: str | None = job.get("metadata", {}).get("job_submission_id")
    return found


def _holder(name: str) -> Holder | None:
    """The holder of the name; None when it is just ending."""
    try:
        answer = ray.get(ray.get_actor(name, NAMESPACE).holder.remote(), timeout=ANSWER_S)
    except (RayError, ValueError):
        return None
    return msgspec.json.decode(answer, type=Holder)


def refusal(name: str, holder: Holder | None) -> str:
    """The message of NameTaken: who has the name, and what to do. `holder` is None if it is just
    ending."""
    other = f"give this one another name: --set name={name}-2"
    if holder is None:
        return f"a cluster named {name!r} is ending on this Ray; try again in a moment, or {other}"
    runs = f"since {holder.started_at}, by process {holder.process_id} on {holder.host}"
    if holder.submission_id is None:
        end = f"there, press Ctrl-C or run `kill {holder.process_id}`"
    else:
        end = f"end it with `ray job stop {holder.submission_id}`"
    return f"a cluster named {name!r} runs on this Ray {runs}; {end}, or {other}"
