"""Settings for Ray: which cluster, which nodes, which environment."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from cluster.errors import BadConfig
from cluster.labels import is_selector


class PlacementRule(enum.Enum):
    """How the processes of one kind are distributed over nodes with free resources."""

    PACK = "pack"
    """As few nodes as possible."""
    SPREAD = "spread"
    """As evenly as possible."""
    ONE_PER_NODE = "one_per_node"
    """At most one on each node."""


class RouterNodes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Resources and nodes of the routers. Routers on several nodes use the same ports."""

    num_cpus: float = 0
    """CPUs that each router reserves on Ray."""
    resources: dict[str, float] = {}
    """Custom Ray resources of each router, as {"name": amount}."""
    labels: dict[str, str] = {}
    """Required node labels, as in a pool."""
    placement: PlacementRule = PlacementRule.PACK
    """How routers are distributed over the nodes."""


class RayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings for Ray that apply to all processes."""

    address: str | None = None
    """Address of a running Ray cluster. None starts a light one on this machine, unless a Ray job
    or RAY_ADDRESS names one."""
    place_timeout_s: float = 60.0
    """Timeout for a worker to get its resources."""
    near: str | None = None
    """A node label, such as "rack" or "ray.io/availability-zone": prefill and decode workers are
    distributed so that nodes with the same value have both. None if all links between nodes are
    alike."""
    routers: RouterNodes = RouterNodes()
    """Nodes and resources of the routers."""
    runtime_env: dict[str, Any] = {}
    """Ray's runtime environment for all processes of the cluster: env_vars, pip, working_dir, …"""


def check_nodes(keys: str, resources: Mapping[str, float], labels: Mapping[str, str]) -> None:
    """Raises BadConfig for resources or labels that Ray would refuse; `keys` is their section."""
    for name, amount in resources.items():
        if name in ("CPU", "GPU"):
            raise BadConfig(f"{keys}.resources.{name}: write {keys}.num_{name.lower()}s instead")
        if amount < 0:
            raise BadConfig(f"{keys}.resources.{name} is {amount}, must not be negative")
    for label, selector in labels.items():
        if not is_selector(selector):
            raise BadConfig(
                f"{keys}.labels.{label}: {selector!r} is none of VALUE, !VALUE, in(A, B), !in(A, B)"
            )


def check_name(name: str) -> None:
    """Raises BadConfig if the cluster's name is invalid."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name):
        raise BadConfig(f"name: {name!r} must be 1 to 63 letters, digits and . _ - between them")
