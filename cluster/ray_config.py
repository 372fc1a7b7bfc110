"""What a cluster asks of Ray: which Ray, which nodes, which environment."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from cluster.errors import BadConfig
from cluster.labels import is_selector


class PlacementRule(enum.Enum):
    """How the processes of one kind share the nodes that have room for them."""

    PACK = "pack"
    """As few nodes as possible."""
    SPREAD = "spread"
    """As evenly as possible."""
    ONE_PER_NODE = "one_per_node"
    """Never two on one node."""


class RouterNodes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each router asks of Ray. Routers on several nodes have the same ports there."""

    num_cpus: float = 0
    """Of each router."""
    resources: dict[str, float] = {}
    """Custom Ray resources of each router, as {"name": amount}."""
    labels: dict[str, str] = {}
    """What a node's labels must be, as in a pool."""
    placement: PlacementRule = PlacementRule.PACK
    """How routers share the nodes."""


class RayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which Ray, and what holds for all processes there."""

    address: str | None = None
    """Of a running Ray cluster; None starts a light one on this machine, unless a Ray job or
    RAY_ADDRESS names one."""
    place_timeout_s: float = 60.0
    """How long a worker may wait for its resources."""
    near: str | None = None
    """A label of nodes, such as "rack" or "ray.io/availability-zone". Prefill and decode workers
    are shared out so that nodes with the same value have both kinds; None where all links between
    nodes are alike."""
    routers: RouterNodes = RouterNodes()
    """Where routers run, and what they take there."""
    runtime_env: dict[str, Any] = {}
    """Ray's runtime environment for all processes of the cluster: env_vars, pip, working_dir, …"""


def check_nodes(keys: str, resources: Mapping[str, float], labels: Mapping[str, str]) -> None:
    """Raises BadConfig for wishes that Ray does not understand; `keys` is where they stand."""
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
    """Raises BadConfig."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name):
        raise BadConfig(f"name: {name!r} must be 1 to 63 letters, digits and . _ - between them")
