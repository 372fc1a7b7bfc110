"""What a changed configuration changes in a cluster that runs: pure.

`difference` tells it as a whole, and what cannot be changed. `next_step` tells what to do now: it
is asked again and again, so that a change in the middle of another, or a worker that dies
meanwhile, needs no more thought.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import msgspec

from cluster.config import ClusterConfig
from cluster.pools import PoolConfig
from router.config import RouterConfig, ServedModelConfig

SameText = Callable[[str, str], bool]
"""Whether two model directories turn text into the same tokens."""
OF_THE_POOL = {"replicas", "placement", "keys"}
"""Settings of a pool that its workers, once placed, do not know of."""
RESTART = "restart the cluster to change it"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Names of workers, and the reasons why the new configuration cannot be had without a restart:
    then nothing of it is."""

    added: tuple[str, ...] = ()
    drained: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def __str__(self) -> str:
        kinds = {"adds": self.added, "drains": self.drained, "replaces": self.replaced}
        told = [f"{verb} {', '.join(names)}" for verb, names in kinds.items() if names]
        return "; ".join(told) or "concerns no worker"


class HeldPlace(msgspec.Struct, frozen=True, kw_only=True):
    """One place for a worker, as it is now."""

    name: str
    is_current: bool
    """Its worker has the settings that are wanted."""
    serves: bool
    """Its worker is ready; not while it loads, or is dead."""


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
    """A worker with the settings of `running` has to be started anew to have those of `wanted`."""
    return any(
        getattr(running, name) != getattr(wanted, name)
        for name in PoolConfig.__struct_fields__
        if name not in OF_THE_POOL
    )


def next_step(
    wanted: Sequence[str], held: Sequence[HeldPlace], leaving: Collection[str]
) -> RollingStep:
    """`leaving` are draining; a place is free for another worker when the former has left it.

    Workers with other settings than wanted are replaced one at a time, while all others serve;
    those that do not serve yet, or no more, at once.
    """
    names = {place.name for place in held}
    start = tuple(name for name in wanted if name not in names and name not in leaving)
    unwanted = [place.name for place in held if place.name not in wanted]
    outdated = [place for place in held if place.name in wanted and not place.is_current]
    idle = [place.name for place in outdated if not place.serves]
    quiet = not (start or leaving or unwanted) and all(place.serves for place in held)
    first = [place.name for place in outdated[:1]] if quiet else []
    return RollingStep(start=start, drain=(*unwanted, *idle, *first))


def _workers(config: ClusterConfig) -> dict[str, PoolConfig]:
    """By name, in the order in which they start."""
    return {f"{pool.name}-{index}": pool for pool, index in config.workers()}


def _refusals(old: ClusterConfig, new: ClusterConfig, same_text: SameText) -> list[str]:
    """Names of Ray's cluster and of ours, and whatever routers have from their start."""
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
    """Apart from the directory: weights are exchanged under routers that go on."""
    if one is None or other is None:
        return False
    return msgspec.structs.replace(one, path="") == msgspec.structs.replace(other, path="")
