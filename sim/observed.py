"""Running workers as the simulation sees them: their own coefficients, from a router's status."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import msgspec

from router.roles.model_status import StatusBody, WorkerView
from sim.devices.fit import NAMES
from sim.machine import LAYOUT, MachineModel
from wire.identity import Role


class BadStatus(ValueError):
    """The file is no status of `tandem status --json`, or too little is known in it."""


class Observed(msgspec.Struct, frozen=True):
    """Workers that run in one role, with the means of what they have measured. What none of them
    has done yet is known of workers in the other role, which have the same weights."""

    num_workers: int
    machine: MachineModel


def read_status(file: Path) -> dict[Role, Observed]:
    """The workers of the only model in what `tandem status --json` printed; raises BadStatus."""
    try:
        body = msgspec.json.decode(file.read_bytes(), type=StatusBody)
    except OSError as error:
        raise BadStatus(f"{file} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise BadStatus(f"{file} is not what `tandem status --json` prints: {error}") from error
    if len(body.models) != 1:
        names = ", ".join(model.name for model in body.models) or "none"
        raise BadStatus(f"{file}: wanted the status of one model, found {names}")
    workers = [worker for worker in body.models[0].workers if worker.steps is not None]
    if not workers:
        raise BadStatus(f"{file}: no worker has reported yet")
    by_role = {role: [it for it in workers if it.role == role.value] for role in Role}
    return {
        role: Observed(len(own), _machine(file, own, workers))
        for role, own in by_role.items()
        if own
    }


def _machine(file: Path, own: Sequence[WorkerView], workers: Sequence[WorkerView]) -> MachineModel:
    known = {name: _mean(own, name) for name in NAMES}
    known.update({name: _mean(workers, name) for name, value in known.items() if value is None})
    missing = [name for name, value in known.items() if value is None]
    if missing:
        wanted = f"{', '.join(missing)} not measured yet"
        raise BadStatus(f"{file}: {wanted}: serve some requests, prompts and answers, first")
    steps = [worker.steps for worker in workers if worker.steps is not None]
    links = [link for worker in workers for link in worker.links]
    machine = msgspec.structs.replace(
        MachineModel(),
        **known,
        pool_tokens=min(each.pool_tokens for each in steps),
        max_model_len=min(each.max_model_len for each in steps),
    )
    if not links:
        return machine
    # The simulated layout is the default one: links send as many tokens a second in both.
    larger = LAYOUT.token_bytes / fmean(each.token_bytes for each in steps)
    return msgspec.structs.replace(
        machine,
        bytes_per_s=larger * fmean(link.bytes_per_s for link in links),
        latency_s=fmean(link.latency_s for link in links),
    )


def _mean(workers: Sequence[WorkerView], name: str) -> float | None:
    values = [getattr(worker.steps, name) for worker in workers]
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
