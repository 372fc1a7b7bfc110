"""A Ray has one cluster of each name at a time: an actor of that name, while its driver lives.

Ray makes a named actor once, whoever asks first, and ends it with the job that made it, however
that ends.
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
    """Who runs a cluster. `submission_id` is of the Ray job, where there is one."""

    host: str
    process_id: int
    started_at: str
    submission_id: str | None = None


class NameActor:
    """Answers who has the name."""

    def __init__(self, holder: bytes) -> None:
        self._holder = holder

    def holder(self) -> bytes:
        return self._holder


def claim(name: str) -> Any:
    """The actor that holds the name as long as this process lives. Raises NameTaken; who is just
    ending is waited for."""
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
    here = ray.get_runtime_context().get_node_id()  # its node dies with us, and no earlier
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
    """Of the Ray job whose driver this is."""
    job = json.loads(os.environ.get(JOB_CONFIG, "{}"))
    found: str | None = job.get("metadata", {}).get("job_submission_id")
    return found


def _holder(name: str) -> Holder | None:
    """None when it ends just now."""
    try:
        answer = ray.get(ray.get_actor(name, NAMESPACE).holder.remote(), timeout=ANSWER_S)
    except (RayError, ValueError):
        return None
    return msgspec.json.decode(answer, type=Holder)


def refusal(name: str, holder: Holder | None) -> str:
    """Who has the name, and what to do; `holder` is None when it ends just now."""
    other = f"give this one another name: --set name={name}-2"
    if holder is None:
        return f"a cluster named {name!r} is ending on this Ray; try again in a moment, or {other}"
    runs = f"since {holder.started_at}, by process {holder.process_id} on {holder.host}"
    if holder.submission_id is None:
        end = f"there, press Ctrl-C or run `kill {holder.process_id}`"
    else:
        end = f"end it with `ray job stop {holder.submission_id}`"
    return f"a cluster named {name!r} runs on this Ray {runs}; {end}, or {other}"
