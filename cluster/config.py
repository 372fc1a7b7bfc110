"""The cluster's configuration: from one YAML file, or none, to the settings of every process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from cluster.errors import BadConfig
from cluster.hub import find_model
from cluster.key_errors import explain_key_error, name_origin
from cluster.pools import MODEL_KEYS, POOL_KEYS, PoolConfig, compose_models, compose_pools, mapping
from cluster.ray_config import RayConfig, check_name, check_nodes
from router.config import RouterConfig, ServedModelConfig
from runtime.tls import MutualTls
from worker.config import RunnerKind, WorkerConfig

MAX_WORKERS = 4096
MAX_ROUTERS = 64
AUTO_HOST = "auto"
"""Default `host`: the address of the process's Ray node; loopback without Ray."""


ProcessConfig = TypeVar("ProcessConfig", RouterConfig, WorkerConfig)


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration. `worker` settings apply to all pools; a pool's own settings win.

    The short form is for one model: `model`, `model_name`, and the pools `prefill` and `decode`.
    The long form has `models`, by name, each a directory or settings with a `path`, and `pools`, by
    name, each with its `role` and `model`. See cluster.pools.
    """

    name: str = "tandem"
    """Name of the cluster, unique among the clusters on one Ray."""
    tls: MutualTls | None = None
    """Certificates of every process for internal connections (mutual TLS); None: without TLS."""
    router: RouterConfig
    """Settings of every router."""
    num_routers: int = 1
    """Number of router processes behind the same ports, for more requests than one core can serve.
    Connections are balanced among them, so a gRPC client should open several. 0 if routers run
    elsewhere, at the addresses in `worker.routers`."""
    pools: tuple[PoolConfig, ...] = ()
    ray: RayConfig = RayConfig()
    """Settings for Ray; unused with `--without-ray`."""
    start_timeout_s: float = 600.0
    """Time in which all workers must load and join the routers."""
    drain_timeout_s: float = 30.0
    """Time for running requests to end when the cluster stops, unless `router` or `worker` sets its
    own."""

    @property
    def models(self) -> dict[str, ServedModelConfig]:
        """The served models, by name."""
        return self.router.models

    def pool(self, name: str) -> PoolConfig:
        """The pool of that name. Raises KeyError."""
        return {pool.name: pool for pool in self.pools}[name]

    def pools_of(self, model: str) -> list[PoolConfig]:
        return [pool for pool in self.pools if pool.model == model]

    def workers(self) -> list[tuple[PoolConfig, int]]:
        """(pool, index) of each worker in start order: pools grow evenly, so that pairs find nearby
        nodes."""
        all_of_them = [(pool, index) for pool in self.pools for index in range(pool.replicas)]
        return sorted(all_of_them, key=lambda it: it[1] / it[0].replicas)


def with_host(config: ProcessConfig, address: str) -> ProcessConfig:
    """The settings with `host` set to `address`, unless the configuration names a host."""
    if config.host != AUTO_HOST:
        return config
    return msgspec.structs.replace(config, host=address)


def load_config(
    path: str | None, overrides: dict[str, Any], find: Callable[[str], str] = find_model
) -> ClusterConfig:
    """Read `path`, apply dotted overrides such as {"prefill.replicas": 2}, and check everything.

    Finally `find` maps each model's path to its directory; it may download from a hub. Raises
    BadConfig, which names the file, the key, and a similar key that was probably meant.
    """
    tree = _read(path) if path is not None else {}
    try:
        config = _with_directories(_from_tree(tree, overrides), find)
        for model in config.models:
            _check_directory(config, model)
        return config
    except BadConfig as error:
        raise BadConfig(name_origin(str(error), path, overrides)) from error


def _from_tree(tree: dict[str, Any], overrides: dict[str, Any]) -> ClusterConfig:
    for key, value in overrides.items():
        _override(tree, key, value)
    models = compose_models(tree)
    pools = {key: tree.pop(key) for key in POOL_KEYS if key in tree}
    defaults = _compose(tree, models)
    try:
        config = msgspec.convert(tree, ClusterConfig)
    except msgspec.ValidationError as error:
        also = (*MODEL_KEYS, *POOL_KEYS)
        raise BadConfig(explain_key_error(error, ClusterConfig, also=also)) from error
    config = msgspec.structs.replace(config, pools=compose_pools(pools, models, defaults))
    _check(config)
    return config


def _with_directories(config: ClusterConfig, find: Callable[[str], str]) -> ClusterConfig:
    """Replace models' paths by absolute directories, since processes on Ray have another working
    directory."""
    replace = msgspec.structs.replace
    models = {name: replace(model, path=find(model.path)) for name, model in config.models.items()}
    pools = [
        replace(pool, worker=replace(pool.worker, model=models[pool.model].path))
        for pool in config.pools
    ]
    return replace(config, router=replace(config.router, models=models), pools=tuple(pools))


def parse_override(text: str) -> tuple[str, Any]:
    """Parse `key.path=value`, with the value in YAML. Raises BadConfig."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadConfig(f"--set {text!r}: write it as key.path=value")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BadConfig(f"--set {text!r}: the value is not YAML: {error}") from error


def _read(path: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is not YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise BadConfig(f"{path}: must be a mapping of keys, is a {type(tree).__name__}")
    return tree


def _override(tree: dict[str, Any], key: str, value: Any) -> None:
    node, rest = tree, key
    while True:
        name, _, rest = _first_name(node, rest)
        if not rest:
            node[name] = value
            return
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise BadConfig(f"{key}: {name} is no mapping")


def _first_name(node: dict[str, Any], key: str) -> tuple[str, str, str]:
    """Split a key at its first dot; names of models in the file may contain dots themselves."""
    with_dots = [name for name in node if "." in str(name) and f"{key}.".startswith(f"{name}.")]
    if not with_dots:
        return key.partition(".")
    name = max(with_dots, key=len)
    return name, ".", key[len(name) + 1 :]


def _compose(tree: dict[str, Any], models: dict[str, ServedModelConfig]) -> dict[str, Any]:
    """Copy top-level settings into the router's section; returns the defaults of every worker."""
    router = mapping(tree, "router")
    if "models" in router:
        raise BadConfig("router.models: write models instead")
    router["models"] = models
    router.setdefault("host", AUTO_HOST)
    drain = {key: tree[key] for key in ("drain_timeout_s",) if key in tree}
    tree["router"] = router = {**drain, **router}
    _make_absolute(router, "keys_file")
    if router.get("door_tls") is not None:
        _make_absolute(mapping(router, "door_tls"), "cert", "key", "client_ca")
    tls = None if tree.get("tls") is None else mapping(tree, "tls")
    if tls is not None:
        _make_absolute(tls, "ca", "cert", "key")
        router.setdefault("tls", tls)
    return {"host": AUTO_HOST, "tls": tls, **drain}


def _make_absolute(tree: dict[str, Any], *keys: str) -> None:
    """Make paths absolute, since processes on Ray have another working directory."""
    for key in keys:
        if isinstance(tree.get(key), str):
            tree[key] = str(Path(tree[key]).absolute())


def _check(config: ClusterConfig) -> None:
    fewest = 0 if all(pool.worker.routers for pool in config.pools) else 1
    if not fewest <= config.num_routers <= MAX_ROUTERS:
        raise BadConfig(f"num_routers is {config.num_routers}, must be {fewest} to {MAX_ROUTERS}")
    for pool in config.pools:
        _check_pool(pool)
        if pool.max_workers is not None and config.num_routers == 0:
            raise BadConfig(
                f"{pool.keys}.max_workers: the driver asks its own routers how many workers are "
                "wanted, and num_routers is 0: scale this pool elsewhere, by tandem_wanted_workers"
            )
    check_nodes("ray.routers", config.ray.routers.resources, config.ray.routers.labels)
    check_name(config.name)
    for model in config.models:
        _check_model(config, model)


def _check_pool(pool: PoolConfig) -> None:
    if not 0 <= pool.replicas <= MAX_WORKERS:
        raise BadConfig(f"{pool.keys}.replicas is {pool.replicas}, must be 0 to {MAX_WORKERS}")
    _check_bounds(pool)
    if pool.num_cpus < 0 or pool.num_gpus < 0:
        raise BadConfig(f"{pool.keys}: num_cpus and num_gpus must not be negative")
    if pool.num_gpus > 1 and pool.num_gpus != int(pool.num_gpus):
        raise BadConfig(f"{pool.keys}.num_gpus is {pool.num_gpus}: more than 1 must be whole")
    num_ranks = pool.worker.tensor_parallel_size
    if 0 < pool.num_gpus < num_ranks > 1:
        raise BadConfig(
            f"{pool.keys}.num_gpus is {pool.num_gpus:g}, must be {num_ranks}, one for each rank "
            "(worker.tensor_parallel_size), or 0 to compute on the CPU"
        )
    check_nodes(pool.keys, pool.resources, pool.labels)


def _check_bounds(pool: PoolConfig) -> None:
    """Raises BadConfig where the number of workers may change, and its bounds are no bounds."""
    if pool.max_workers is None:
        return
    if not 1 <= pool.min_workers <= pool.max_workers <= MAX_WORKERS:
        raise BadConfig(
            f"{pool.keys}: min_workers is {pool.min_workers} and max_workers {pool.max_workers}, "
            f"must be 1 to {MAX_WORKERS}, the first not above the second"
        )
    if not pool.min_workers <= pool.replicas <= pool.max_workers:
        raise BadConfig(
            f"{pool.keys}.replicas is {pool.replicas}, must be {pool.min_workers} to "
            f"{pool.max_workers} (min_workers to max_workers)"
        )


def _check_model(config: ClusterConfig, name: str) -> None:
    pools = config.pools_of(name)
    if not pools:
        raise BadConfig(f"models.{name}: none of pools has it, so nobody would serve it")
    if not any(pool.replicas for pool in pools):
        replicas = " and ".join(f"{pool.keys}.replicas" for pool in pools)
        raise BadConfig(f"{replicas}: 0, so nobody would serve model {name!r}")


def _check_directory(config: ClusterConfig, name: str) -> None:
    path, pools = config.models[name].path, config.pools_of(name)
    if any(pool.worker.runner is RunnerKind.TORCH for pool in pools) and not Path(path).is_dir():
        raise BadConfig(
            f"model {name!r}: {path!r} is no directory; give the path of a Hugging Face model "
            "directory (config.json, tokenizer.json, *.safetensors) that every node can read, or "
            "a name on the hub, as org/name"
        )
