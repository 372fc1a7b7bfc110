"""One YAML file, or none, to the settings of every process of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from cluster.bundled import BUNDLED_MODEL, BUNDLED_WORKER
from cluster.errors import BadConfig
from router.config import RouterConfig
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
    worker: WorkerConfig = WorkerConfig(model="")


class RayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    address: str | None = None
    """Of a running Ray cluster; None starts a light one on this machine, unless a Ray job or
    RAY_ADDRESS names one."""
    place_timeout_s: float = 60.0
    """How long a worker may wait for its resources."""


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything. `worker` settings hold for both pools; a pool's own `worker` settings win."""

    model: str
    model_name: str | None = None
    router: RouterConfig
    num_routers: int = 1
    """Router processes on one machine, behind the same ports: more requests than one core can
    serve. Connections are shared out among them, so clients of gRPC want several each."""
    prefill: PoolConfig = PoolConfig()
    decode: PoolConfig = PoolConfig()
    ray: RayConfig = RayConfig()
    start_timeout_s: float = 600.0
    """How long all workers together may take to load and to join the router."""
    drain_timeout_s: float = 30.0

    def pool(self, role: Role) -> PoolConfig:
        return self.prefill if role is Role.PREFILL else self.decode

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
    for pool_name in ("prefill", "decode"):
        pool = _mapping(tree, pool_name)
        own = _mapping(pool, "worker")
        defaults = BUNDLED_WORKER if bundled else {}
        defaults = {"host": AUTO_HOST, **defaults}
        pool["worker"] = {**defaults, **shared, **own, "model": model, "model_name": name}


def _mapping(tree: dict[str, Any], key: str) -> dict[str, Any]:
    value = tree.get(key)
    if value is None:
        value = tree[key] = {}
    if not isinstance(value, dict):
        raise BadConfig(f"{key}: must be a mapping of keys, is a {type(value).__name__}")
    return value


def _check(config: ClusterConfig) -> None:
    if not 1 <= config.num_routers <= MAX_ROUTERS:
        raise BadConfig(f"num_routers is {config.num_routers}, must be 1 to {MAX_ROUTERS}")
    for role in Role:
        pool = config.pool(role)
        if not 0 <= pool.replicas <= MAX_WORKERS:
            raise BadConfig(f"{role.value}.replicas is {pool.replicas}, must be 0 to {MAX_WORKERS}")
        if pool.num_cpus < 0 or pool.num_gpus < 0:
            raise BadConfig(f"{role.value}: num_cpus and num_gpus must not be negative")
    if config.prefill.replicas + config.decode.replicas == 0:
        raise BadConfig("prefill.replicas and decode.replicas are both 0: nobody would serve")
    if config.prefill.worker.runner is RunnerKind.TORCH and not Path(config.model).is_dir():
        raise BadConfig(
            f"model: {config.model!r} is no directory; give the path of a Hugging Face model "
            "directory (config.json, tokenizer.json, *.safetensors) that every node can read"
        )
