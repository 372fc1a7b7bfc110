"""Ray placement groups for workers, each on the node that `cluster.placement` chose."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.util.placement_group import (
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from cluster.placement import Demand, Node, Pairing, Placed, excluded_nodes, ranked
from cluster.shortage import explain

NODE_ID = "ray.io/node-id"
PIN_S = 5
"""Timeout for a placement group on a chosen node, before the next node is tried; in whole seconds,
as Ray counts it."""
MAX_TRIES = 3


@dataclass(slots=True, eq=False)
class ReservedBundle:
    """The placement group of one worker. `placed` is None while the worker waits for it."""

    name: str
    demand: Demand
    group: Any
    requested_at: float
    placed: Placed | None = None

    def is_placed(self) -> bool:
        """Whether the group has its resources now."""
        if self.placed is None:
            table = placement_group_table(self.group)
            if table.get("state") == "CREATED":
                (node_id,) = table["bundles_to_node_id"].values()
                self.placed = Placed(self.demand, node_id)
        return self.placed is not None


@dataclass(slots=True)
class ReservedBundles:
    """All placement groups of one cluster, named CLUSTER/WORKER."""

    cluster_name: str
    _bundles: list[ReservedBundle] = field(default_factory=list)

    def reserve(self, name: str, demand: Demand, pairing: Pairing | None) -> ReservedBundle:
        """Reserve the bundle on the best node; if none has the resources, on the first that gets
        them."""
        for node in ranked(demand, nodes(), self.placed, pairing)[:MAX_TRIES]:
            bundle = self._bundle(name, demand, {NODE_ID: node.node_id})
            if bundle.group.wait(PIN_S):
                bundle.placed = Placed(demand, node.node_id)
                return bundle
            self.release(bundle)  # another process was faster
        excluded = excluded_nodes(demand, self.placed)
        other_nodes = {NODE_ID: f"!in({', '.join(excluded)})"} if excluded else {}
        return self._bundle(name, demand, {**demand.labels, **other_nodes})

    def release(self, bundle: ReservedBundle) -> None:
        remove_placement_group(bundle.group)
        self._bundles.remove(bundle)

    def explain_shortage(self, bundle: ReservedBundle, keys: str) -> str:
        return explain(bundle.demand, nodes(), self.placed, keys)

    @property
    def placed(self) -> list[Placed]:
        return [bundle.placed for bundle in self._bundles if bundle.placed is not None]

    def _bundle(self, name: str, demand: Demand, labels: dict[str, str]) -> ReservedBundle:
        group = placement_group(
            [dict(demand.bundle)],
            strategy="STRICT_PACK",
            name=f"{self.cluster_name}/{name}",
            bundle_label_selector=[labels] if labels else None,
        )
        bundle = ReservedBundle(name, demand, group, time.monotonic())
        self._bundles.append(bundle)
        return bundle


def nodes() -> list[Node]:
    """The live nodes."""
    free = available_resources_per_node()
    return [
        Node(
            node_id=node["NodeID"],
            address=node["NodeManagerAddress"],
            labels=node["Labels"],
            total=node["Resources"],
            free=free.get(node["NodeID"], {}),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
