"""The plan as a configuration that `tandem up -c` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cluster.config import load_config
from cluster.errors import BadConfig, CannotPlan
from sim.evaluate import worker_settings
from sim.plan.planner import PlanFound
from sim.plan.pool_choice import PoolChoice, WorkerGroup
from wire.identity import Role

LABEL = "device"
"""Label of Ray nodes with the devices of a pool, where pools have unlike ones."""


def write_config(found: PlanFound, model: Path, file: Path) -> None:
    """Write the cheapest pools, and check that they can be read. Raises CannotPlan."""
    text = config_text(found, model)
    try:
        file.write_text(text)
        load_config(str(file), {})
    except OSError as error:
        raise CannotPlan(f"--write {file}: {error.strerror}") from error
    except BadConfig as error:
        raise CannotPlan(f"--write {file}: {error}") from error


def config_text(found: PlanFound, model: Path) -> str:
    """The file's text, with a comment that says what it was planned for."""
    needs, choice = found.needs, found.best.trial.choice
    head = (
        f"# Planned by `tandem plan` for {needs.requests_per_s:g} requests/s, a first token within "
        f"{needs.ttft_s:g} s and\n# {1e3 * needs.tpot_s:g} ms for each further one, kept by "
        f"{needs.attainment:.1%} of requests: {choice.num_gpus} GPUs.\n"
    )
    return head + yaml.safe_dump(config_tree(found, model), sort_keys=False)


def config_tree(found: PlanFound, model: Path) -> dict[str, Any]:
    """The settings that the simulation ran with."""
    needs, choice = found.needs, found.best.trial.choice
    router = {
        "split": choice.policy.value,
        "ttft_target_s": needs.ttft_s,
        "tpot_target_s": needs.tpot_s,
    }
    return {"model": str(model.absolute()), "router": router, "pools": _pools(found, choice)}


def _pools(found: PlanFound, choice: PoolChoice) -> dict[str, Any]:
    if not choice.family.split:
        (group,) = choice.groups
        return {"unsplit": _pool(found, Role.DECODE, group)}
    prefill, decode = choice.groups
    return {
        "prefill": _pool(found, Role.PREFILL, prefill),
        "decode": _pool(found, Role.DECODE, decode),
    }


def _pool(found: PlanFound, role: Role, group: WorkerGroup) -> dict[str, Any]:
    kind, family = group.kind, found.best.trial.choice.family
    settings = worker_settings(found.needs.targets, family.chunk_tokens)
    unlike = len({each.device for each in family.kinds}) > 1
    return {
        "role": role.value,
        "replicas": group.num_workers,
        "num_gpus": kind.tensor_parallel,
        **({"labels": {LABEL: kind.device}} if unlike else {}),
        "worker": {
            "tensor_parallel_size": kind.tensor_parallel,
            "chunk_tokens": settings.chunk_tokens,
            "tpot_target_s": settings.tpot_target_s,
        },
    }
