"""Models and pools: from the short form or the form by name to one list of pools."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from cluster.bundled import BUNDLED_MODEL, BUNDLED_WORKER
from cluster.errors import BadConfig
from cluster.hub import served_name
from cluster.key_errors import explain_key_error
from cluster.ray_config import PlacementRule
from router.config import ServedModelConfig
from wire.identity import Role
from worker.config import WorkerConfig
from worker.fitted_config import GPU_CACHE_FRACTION

SHORT_FORM = tuple(role.value for role in Role)
"""Names of the pools in the short form: the roles."""
ROUTER = "router"
"""Kind of the routers; no pool may have this name."""
MODEL_KEYS = ("model", "model_name", "models")
POOL_KEYS = ("worker", "pools", *SHORT_FORM)
_POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
Section = TypeVar("Section", bound=msgspec.Struct)


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pool: workers with the same settings and resource demands."""

    role: Role
    """Role of its workers. A model with pools of one role only is served without a handoff."""
    model: str | None = None
    """Name of the pool's model among `models`; may be omitted if there is only one."""
    replicas: int = 1
    """Number of workers; with `max_workers`, at the start."""
    min_workers: int = 1
    """Fewest workers, with `max_workers`."""
    max_workers: int | None = None
    """Most workers: the driver adds and drains workers between `min_workers` and this, as the
    routers want them; None keeps `replicas`."""
    num_cpus: float = 1
    """CPUs that each worker reserves on Ray; also its number of threads unless `worker.threads` is
    set. Default: one for each rank (`worker.tensor_parallel_size`)."""
    num_gpus: float = 0
    """GPUs of each worker, all on one node; a fraction shares a GPU with others. Default: one for
    each rank if `worker.device` is "cuda", else 0, with which "auto" computes on the CPU. With more
    than 0, `worker.device` is "cuda" unless it is set."""
    resources: dict[str, float] = {}
    """Custom Ray resources of each worker, as {"name": amount}."""
    accelerator_type: str | None = None
    """Type of the node's GPUs, in Ray's spelling: "A100", "H100", …"""
    labels: dict[str, str] = {}
    """Required node labels, as Ray's selectors: {"rack": "r1"}, "!r1", "in(r1, r2)", "!in(r1,
    r2)"."""
    placement: PlacementRule = PlacementRule.PACK
    """How the workers are distributed over nodes with free resources."""
    worker: WorkerConfig
    """Settings of this pool's workers; they override the top-level `worker` settings."""


class PoolConfig(PoolSettings, frozen=True, kw_only=True):
    """One pool, fully composed. Its workers are called NAME-0, NAME-1, …"""

    name: str
    keys: str
    """Path of the pool in the configuration: "prefill", or "pools.NAME"."""
    model: str


def compose_models(tree: dict[str, Any]) -> dict[str, ServedModelConfig]:
    """Remove `model` and `model_name`, or `models`, from the tree; returns the models by name.
    Raises BadConfig."""
    short = {key: tree.pop(key) for key in ("model", "model_name") if tree.get(key) is not None}
    if tree.get("models") is None:
        tree.pop("models", None)
        path = str(short.get("model", BUNDLED_MODEL))
        return {str(short.get("model_name") or served_name(path)): ServedModelConfig(path=path)}
    if short:
        raise BadConfig(f"{' and '.join(short)}: models names all of them already, leave one out")
    written = mapping(tree, "models")
    del tree["models"]
    if not written:
        raise BadConfig("models is empty: nothing would be served")
    return {str(name): _model(str(name), value) for name, value in written.items()}


def compose_pools(
    tree: dict[str, Any], models: Mapping[str, ServedModelConfig], defaults: Mapping[str, Any]
) -> tuple[PoolConfig, ...]:
    """The pools under POOL_KEYS of the tree. Raises BadConfig.

    A worker's settings come from `defaults`, `worker` and the pool itself; the later win.
    """
    shared = mapping(tree, "worker")
    return tuple(
        _pool(name, keys, settings, models, {**defaults, **shared})
        for name, keys, settings in _written_pools(tree, models)
    )


def mapping(tree: dict[str, Any], key: str, keys: str | None = None) -> dict[str, Any]:
    """The mapping at `key`, created if missing. Raises BadConfig, which calls it `keys`."""
    value = tree.get(key)
    if value is None:
        value = tree[key] = {}
    if not isinstance(value, dict):
        raise BadConfig(f"{keys or key}: must be a mapping of keys, is a {type(value).__name__}")
    return value


def _model(name: str, value: Any) -> ServedModelConfig:
    """A model from its directory alone, or from settings with a `path`."""
    return decode(
        {"path": value} if isinstance(value, str) else value, ServedModelConfig, f"models.{name}"
    )


def _written_pools(
    tree: dict[str, Any], models: Mapping[str, ServedModelConfig]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, path in the configuration, and settings of each pool."""
    short = [key for key in SHORT_FORM if key in tree]
    if tree.get("pools") is None:
        if len(models) > 1:
            names = ", ".join(models)
            raise BadConfig(f"models are {names}: name the pools of each under pools")
        for role in SHORT_FORM:
            yield role, role, {"role": role, **mapping(tree, role)}
        return
    if short:
        raise BadConfig(f"{' and '.join(short)}: pools names all of them already, leave one out")
    for name in mapping(tree, "pools"):
        yield name, f"pools.{name}", mapping(tree["pools"], name, f"pools.{name}")


def _pool(
    name: Any,
    keys: str,
    written: Mapping[str, Any],
    models: Mapping[str, ServedModelConfig],
    shared: Mapping[str, Any],
) -> PoolConfig:
    if not isinstance(name, str) or not _POOL_NAME.fullmatch(name) or name == ROUTER:
        text = f"must be 1 to 63 letters, digits and _ - between them, and not {ROUTER!r}"
        raise BadConfig(f"{keys}: the name of a pool {text}")
    settings = dict(written)
    model = _model_of(settings, keys, models)
    path = models[model].path
    bundled = BUNDLED_WORKER if path == str(BUNDLED_MODEL) else {}
    own = mapping(settings, "worker", f"{keys}.worker")
    settings["worker"] = {**bundled, **shared, **own, "model": path, "model_name": model}
    num_gpus = settings.get("num_gpus")
    if num_gpus:  # a worker that does not find them shall say so
        settings["worker"].setdefault("device", "cuda")
    if isinstance(num_gpus, float) and 0 < num_gpus < 1:
        settings["worker"].setdefault("cache_fraction", GPU_CACHE_FRACTION * num_gpus)
    decoded = decode(settings, PoolSettings, keys)
    fields = msgspec.structs.asdict(decoded)
    given = {key: fields[key] for key in settings}
    asked = {**fields, **_rank_shares(decoded.worker), **given}
    return PoolConfig(**{**asked, "name": name, "keys": keys, "model": model})


def _rank_shares(worker: WorkerConfig) -> dict[str, float]:
    """Default CPUs and GPUs of a worker: each rank is a process, with a GPU of its own if it
    computes on one."""
    num_ranks = worker.tensor_parallel_size
    names_one = num_ranks == 1 and worker.device != "cuda"  # "cuda:1", among those that it sees
    on_gpus = worker.device.startswith("cuda") and not names_one
    return {"num_cpus": num_ranks, "num_gpus": num_ranks if on_gpus else 0}


def _model_of(
    settings: Mapping[str, Any], keys: str, models: Mapping[str, ServedModelConfig]
) -> str:
    named = settings.get("model")
    if named is None and len(models) == 1:
        return next(iter(models))
    if not isinstance(named, str) or named not in models:
        raise BadConfig(f"{keys}.model is {named!r}, must be one of models: {', '.join(models)}")
    return named


def decode(tree: Any, kind: type[Section], keys: str) -> Section:
    """Decode one section of the configuration. Raises BadConfig with the key's whole path."""
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise BadConfig(explain_key_error(error, kind, keys)) from error
