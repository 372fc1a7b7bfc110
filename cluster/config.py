"""One YAML file, or none, to the settings of every process of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from cluster.bundled import BUNDLED_MODEL, BUNDLED_WORKER
from cluster.errors import BadConfig
from cluster.ray_config import Placement, RayConfig, check_name, check_nodes
from router.config import RouterConfig
from runtime.tls import MutualTls
from wire.identity import Role
from worker.config import RunnerKind, WorkerConfig

MAX_WORKERS = 4096
MAX_ROUTERS = 64
AUTO_HOST = "auto"
"""Where processes listen unless told otherwise: at their Ray node's address, else on loopback."""


ProcessConfig = TypeVar("ProcessConfig", RouterConfig, WorkerConfig)


class PoolConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The workers of one kind, and what each of them asks of Ray."""

    replicas: int = 1
    num_cpus: float = 1
    num_gpus: float = 0
    resources: dict[str, float] = {}
    """Custom Ray resources of each worker, as {"name": amount}."""
    accelerator_type: str | None = None
    """Of the node's GPUs, as Ray calls it: "A100", "H100", …"""
    labels: dict[str, str] = {}
    """What a node's labels must be, in Ray's words: {"rack": "r1"}, "!r1", "in(r1, r2)",
    "!in(r1, r2)"."""
    placement: Placement = Placement.PACK
    worker: WorkerConfig = WorkerConfig(model="")


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything. `worker` settings hold for both pools; a pool's own `worker` settings win."""

    model: str
    model_name: str | None = None
    name: str = "tandem"
    """Of this cluster: a Ray has one of each name at a time."""
    tls: MutualTls | None = None
    """Certificates of every process, for all that they say to each other; None: without TLS."""
    router: RouterConfig
    num_routers: int = 1
    """Router processes on one machine, behind the same ports: more requests than one core can
    serve. Connections are shared out among them, so clients of gRPC want several each.
    0 where routers run elsewhere, as `worker.routers` says."""
    prefill: PoolConfig = PoolConfig()
    decode: PoolConfig = PoolConfig()
    ray: RayConfig = RayConfig()
    start_timeout_s: float = 600.0
    """How long all workers together may take to load and to join the router."""
    drain_timeout_s: float = 30.0

    def pool(self, role: Role) -> PoolConfig:
        return self.prefill if role is Role.PREFILL else self.decode

    def workers(self) -> list[tuple[Role, int]]:
        """In the order in which they start: both pools grow evenly, so that each finds room near
        the other."""
        both = [(role, index) for role in Role for index in range(self.pool(role).replicas)]
        return sorted(both, key=lambda it: it[1] / self.pool(it[0]).replicas)

    @property
    def served_name(self) -> str:
        return self.model_name or Path(self.model).name


def at_home(config: ProcessConfig, address: str) -> ProcessConfig:
    """The settings of a process that listens at `address` where it was not told another."""
    if config.host != AUTO_HOST:
        return config
    return msgspec.structs.replace(config, host=address)


def load_config(path: str | None, overrides: dict[str, Any]) -> ClusterConfig:
    """Read `path`, apply dotted overrides such as {"prefill.replicas": 2}, and check everything.

    Raises BadConfig, which names the key.
    """
    tree = _read(path) if path is not None else {}
    for key, value in overrides.items():
        _override(tree, key, value)
    model = tree.setdefault("model", str(BUNDLED_MODEL))
    bundled = model == str(BUNDLED_MODEL)
    _compose(tree, str(model), bundled)
    try:
        config = msgspec.convert(tree, ClusterConfig)
    except msgspec.ValidationError as error:
        raise BadConfig(f"{path or 'configuration'}: {error}") from error
    _check(config)
    return config


def parse_override(text: str) -> tuple[str, Any]:
    """`key.path=value`, the value in YAML. Raises BadConfig."""
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
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise BadConfig(f"{key}: {parent} is no mapping")
    node[last] = value


def _compose(tree: dict[str, Any], model: str, bundled: bool) -> None:
    """Spread what is said once over the processes that need it."""
    shared = _mapping(tree, "worker")
    del tree["worker"]
    name = tree.get("model_name") or Path(model).name
    router = _mapping(tree, "router")
    router["model_dir"], router["model"] = model, name
    router.setdefault("host", AUTO_HOST)
    drain = {key: tree[key] for key in ("drain_timeout_s",) if key in tree}
    tree["router"] = router = {**drain, **router}
    _make_absolute(router, "keys_file")
    if router.get("door_tls") is not None:
        _make_absolute(_mapping(router, "door_tls"), "cert", "key", "client_ca")
    tls = None if tree.get("tls") is None else _mapping(tree, "tls")
    if tls is not None:
        _make_absolute(tls, "ca", "cert", "key")
        router.setdefault("tls", tls)
    for pool_name in ("prefill", "decode"):
        pool = _mapping(tree, pool_name)
        own = _mapping(pool, "worker")
        defaults = BUNDLED_WORKER if bundled else {}
        defaults = {"host": AUTO_HOST, "tls": tls, **drain, **defaults}
        pool["worker"] = {**defaults, **shared, **own, "model": model, "model_name": name}


def _make_absolute(tree: dict[str, Any], *keys: str) -> None:
    """Processes that Ray starts have another working directory."""
    for key in keys:
        if isinstance(tree.get(key), str):
            tree[key] = str(Path(tree[key]).absolute())


def _mapping(tree: dict[str, Any], key: str) -> dict[str, Any]:
    value = tree.get(key)
    if value is None:
        value = tree[key] = {}
    if not isinstance(value, dict):
        raise BadConfig(f"{key}: must be a mapping of keys, is a {type(value).__name__}")
    return value


def _check(config: ClusterConfig) -> None:
    fewest = 0 if config.prefill.worker.routers and config.decode.worker.routers else 1
    if not fewest <= config.num_routers <= MAX_ROUTERS:
        raise BadConfig(f"num_routers is {config.num_routers}, must be {fewest} to {MAX_ROUTERS}")
    for role in Role:
        pool = config.pool(role)
        if not 0 <= pool.replicas <= MAX_WORKERS:
            raise BadConfig(f"{role.value}.replicas is {pool.replicas}, must be 0 to {MAX_WORKERS}")
        if pool.num_cpus < 0 or pool.num_gpus < 0:
            raise BadConfig(f"{role.value}: num_cpus and num_gpus must not be negative")
        if pool.num_gpus > 1 and pool.num_gpus != int(pool.num_gpus):
            raise BadConfig(f"{role.value}.num_gpus is {pool.num_gpus}: more than 1 must be whole")
        check_nodes(role.value, pool.resources, pool.labels)
    check_nodes("ray.routers", config.ray.routers.resources, config.ray.routers.labels)
    check_name(config.name)
    if config.prefill.replicas + config.decode.replicas == 0:
        raise BadConfig("prefill.replicas and decode.replicas are both 0: nobody would serve")
    if config.prefill.worker.runner is RunnerKind.TORCH and not Path(config.model).is_dir():
        raise BadConfig(
            f"model: {config.model!r} is no directory; give the path of a Hugging Face model "
            "directory (config.json, tokenizer.json, *.safetensors) that every node can read"
        )
