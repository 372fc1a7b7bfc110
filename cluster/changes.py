"""Changes of configuration in a running cluster, as pure functions.

`difference` compares two configurations and lists what needs a restart. `next_step` says what to
start and drain now. It is called repeatedly with the current state, so a change in the middle of
another, or a worker that dies meanwhile, needs no special case.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import msgspec

from cluster.config import ClusterConfig
from cluster.pools import PoolConfig
from router.config import RouterConfig, ServedModelConfig

SameText = Callable[[str, str], bool]
"""Tells whether two model directories tokenize text alike."""
POOL_ONLY_KEYS = {"replicas", "min_workers", "max_workers", "placement", "keys"}
"""Settings of a pool that its workers do not see; a change of one replaces no worker."""
RESTART = "restart the cluster to change it"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The workers to add, drain and replace, by name.

    If `refused` has reasons, the change needs a restart, and no part of it is applied.
    """

    added: tuple[str, ...] = ()
    drained: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def __str__(self) -> str:
        kinds = {"adds": self.added, "drains": self.drained, "replaces": self.replaced}
        lines = [f"{verb} {', '.join(names)}" for verb, names in kinds.items() if names]
        return "; ".join(lines) or "concerns no worker"


class SlotState(msgspec.Struct, frozen=True, kw_only=True):
    """The current state of one worker slot."""

    name: str
    is_current: bool
    """The worker runs with the settings that are wanted."""
    serves: bool
    """The worker is ready, neither loading nor dead."""


class RollingStep(msgspec.Struct, frozen=True, kw_only=True):
    start: tuple[str, ...] = ()
    drain: tuple[str, ...] = ()


def difference(
    old: ClusterConfig, new: ClusterConfig, same_text: SameText = lambda one, other: True
) -> Difference:
    before, after = _workers(old), _workers(new)
    return Difference(
        added=tuple(name for name in after if name not in before),
        drained=tuple(name for name in before if name not in after),
        replaced=tuple(
            name for name in after if name in before and needs_replacing(before[name], after[name])
        ),
        refused=tuple(_refusals(old, new, same_text)),
    )


def needs_replacing(running: PoolConfig, wanted: PoolConfig) -> bool:
    """Whether a worker with the settings of `running` must be restarted to get those of
    `wanted`."""
    return any(
        getattr(running, name) != getattr(wanted, name)
        for name in PoolConfig.__struct_fields__
        if name not in POOL_ONLY_KEYS
    )


def next_step(
    wanted: Sequence[str], slots: Sequence[SlotState], leaving: Collection[str]
) -> RollingStep:
    """The workers to start and to drain now; those in `leaving` drain already.

    A slot is free for another worker when its former one has left. Workers with outdated settings
    are replaced one at a time, while all others serve; those that do not serve are replaced at
    once.
    """
    names = {slot.name for slot in slots}
    start = tuple(name for name in wanted if name not in names and name not in leaving)
    unwanted = [slot.name for slot in slots if slot.name not in wanted]
    outdated = [slot for slot in slots if slot.name in wanted and not slot.is_current]
    idle = [slot.name for slot in outdated if not slot.serves]
    quiet = not (start or leaving or unwanted) and all(slot.serves for slot in slots)
    first = [slot.name for slot in outdated[:1]] if quiet else []
    return RollingStep(start=start, drain=(*unwanted, *idle, *first))


def _workers(config: ClusterConfig) -> dict[str, PoolConfig]:
    """Pools by worker name, in start order."""
    return {f"{pool.name}-{index}": pool for pool, index in config.workers()}


def _refusals(old: ClusterConfig, new: ClusterConfig, same_text: SameText) -> list[str]:
    """Reasons for a restart: the names of the Ray cluster and of ours, and settings that routers
    read only at their start."""
    changed = [name for name in ("name", "num_routers") if getattr(old, name) != getattr(new, name)]
    changed += [
        f"ray.{name}"
        for name in ("address", "runtime_env")
        if getattr(old.ray, name) != getattr(new.ray, name)
    ]
    refused = [f"{key}: {RESTART}" for key in changed]
    if old.num_routers and new.num_routers:
        refused += _router_refusals(old.router, new.router, same_text)
    return refused


def _router_refusals(old: RouterConfig, new: RouterConfig, same_text: SameText) -> list[str]:
    keys = [
        f"router.{name}"
        for name in RouterConfig.__struct_fields__
        if name != "models" and getattr(old, name) != getattr(new, name)
    ]
    names = [*dict.fromkeys([*old.models, *new.models])]
    keys += [
        f"models.{name}"
        for name in names
        if not _same_for_routers(old.models.get(name), new.models.get(name))
    ]
    refused = [f"{key}: routers have it from their start: {RESTART}" for key in keys]
    for name in set(old.models) & set(new.models):
        one, other = old.models[name].path, new.models[name].path
        if one != other and not same_text(one, other):
            refused.append(
                f"models.{name}: the tokenizer of {other} is not that of {one}, which the routers "
                f"use: {RESTART}"
            )
    return refused


def _same_for_routers(one: ServedModelConfig | None, other: ServedModelConfig | None) -> bool:
    """Whether settings are equal but for the directory: new weights need no router restart."""
    if one is None or other is None:
        return False
    return msgspec.structs.replace(one, path="") == msgspec.structs.replace(other, path="")
