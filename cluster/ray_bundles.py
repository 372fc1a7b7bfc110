"""Rooms for workers: placement groups, each on the node that `cluster.placement` chose."""

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

from cluster.placement import Demand, Node, Pairing, Placed, ranked, shut_out
from cluster.shortage import explain

NODE_ID = "ray.io/node-id"
PIN_S = 5
"""How long Ray may take to give room on a node that has it, before the next one is asked; it
counts whole seconds."""
MOST_TRIES = 3


@dataclass(slots=True, eq=False)
class ReservedBundle:
    """A placement group of one worker. `placed` is None while the worker waits for it."""

    name: str
    demand: Demand
    group: Any
    asked_at: float
    placed: Placed | None = None

    def look(self) -> bool:
        """Whether the worker has its room now."""
        if self.placed is None:
            told = placement_group_table(self.group)
            if told.get("state") == "CREATED":
                (node_id,) = told["bundles_to_node_id"].values()
                self.placed = Placed(self.demand, node_id)
        return self.placed is not None


@dataclass(slots=True)
class ReservedBundles:
    """All rooms of one cluster. Groups are called CLUSTER/WORKER."""

    cluster_name: str
    _rooms: list[ReservedBundle] = field(default_factory=list)

    def ask(self, name: str, demand: Demand, pairing: Pairing | None) -> ReservedBundle:
        """On the best node with room; where none has any, on whichever has first."""
        for node in ranked(demand, nodes(), self.placed, pairing)[:MOST_TRIES]:
            room = self._room(name, demand, {NODE_ID: node.node_id})
            if room.group.wait(PIN_S):
                room.placed = Placed(demand, node.node_id)
                return room
            self.give_up(room)  # somebody else was faster
        shut = shut_out(demand, self.placed)
        elsewhere = {NODE_ID: f"!in({', '.join(shut)})"} if shut else {}
        return self._room(name, demand, {**demand.labels, **elsewhere})

    def give_up(self, room: ReservedBundle) -> None:
        remove_placement_group(room.group)
        self._rooms.remove(room)

    def why_not(self, room: ReservedBundle, keys: str) -> str:
        return explain(room.demand, nodes(), self.placed, keys)

    @property
    def placed(self) -> list[Placed]:
        return [room.placed for room in self._rooms if room.placed is not None]

    def _room(self, name: str, demand: Demand, labels: dict[str, str]) -> ReservedBundle:
        group = placement_group(
            [dict(demand.bundle)],
            strategy="STRICT_PACK",
            name=f"{self.cluster_name}/{name}",
            bundle_label_selector=[labels] if labels else None,
        )
        room = ReservedBundle(name, demand, group, time.monotonic())
        self._rooms.append(room)
        return room


def nodes() -> list[Node]:
    """Those that live."""
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
