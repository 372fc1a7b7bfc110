"""Why a process has no room, in words that name what is wanted, what is there, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.labels import matches
from cluster.placement import ROUNDING, Amounts, Demand, Node, Placed, shut_out
from cluster.ray_config import PlacementRule

MOST_NODES_NAMED = 8


def explain(demand: Demand, nodes: Sequence[Node], placed: Sequence[Placed], keys: str) -> str:
    """`keys` is where the configuration says what it wants: "prefill", or "ray.routers"."""
    wants = f"wants {_amounts(demand.bundle)}"
    if demand.labels:
        wants += f" on a node with {_labels(demand)}"
    labelled = [node for node in nodes if matches(demand.labels, node.labels)]
    if not labelled:
        return f"{wants}, and no node has these labels: {_there(demand, nodes)}. {_relabel(keys)}"
    able = [node for node in labelled if not _missing(demand, node.total)]
    if not able:
        missing = min((_missing(demand, node.total) for node in labelled), key=len)
        return (
            f"{wants}, and no node is as large: {_free(demand, labelled, 'has')} (short of "
            f"{', '.join(missing)}). Add nodes, or change {_wishes(missing, keys)}"
        )
    shut = set(shut_out(demand, placed))
    if shut and all(node.node_id in shut for node in able):
        return (
            f"{wants}, and every node with room for it has a {demand.kind} worker already. Add "
            f"nodes, or change {keys}.placement, which is {PlacementRule.ONE_PER_NODE.value}, or "
            f"{keys}.replicas"
        )
    return (
        f"{wants}, and nothing like it is free: {_free(demand, able, 'has free')}. Add nodes, wait "
        f"until others end, or lower {keys}.replicas or {_wishes(demand.bundle, keys)}"
    )


def _missing(demand: Demand, amounts: Amounts) -> list[str]:
    return [
        resource
        for resource, amount in demand.bundle.items()
        if amounts.get(resource, 0.0) < amount - ROUNDING
    ]


def _amounts(amounts: Amounts) -> str:
    return "{" + ", ".join(f"'{name}': {amount:g}" for name, amount in amounts.items()) + "}"


def _labels(demand: Demand) -> str:
    return ", ".join(f"{key}={value}" for key, value in demand.labels.items())


def _there(demand: Demand, nodes: Sequence[Node]) -> str:
    values = {
        key: sorted({node.labels[key] for node in nodes if key in node.labels})
        for key in demand.labels
    }
    told = [f"{key} is {' or '.join(found) or 'on none'}" for key, found in values.items()]
    return f"of {len(nodes)} nodes, {'; '.join(told)}"


def _relabel(keys: str) -> str:
    return f"Start nodes with `ray start --labels`, or change {keys}.labels"


def _free(demand: Demand, nodes: Sequence[Node], verb: str) -> str:
    told = []
    for node in sorted(nodes, key=lambda node: node.address)[:MOST_NODES_NAMED]:
        amounts = node.total if verb == "has" else node.free
        mine = {resource: amounts.get(resource, 0.0) for resource in demand.bundle}
        told.append(f"{node.address} {verb} {_amounts(mine)}")
    if len(nodes) > MOST_NODES_NAMED:
        told.append(f"{len(nodes) - MOST_NODES_NAMED} more")
    return ", ".join(told)


def _wishes(resources: Iterable[str], keys: str) -> str:
    """The keys that ask for them."""
    named = {"CPU": "num_cpus", "GPU": "num_gpus"}
    found = [
        "accelerator_type" if name.startswith("accelerator_type:") else named.get(name, "resources")
        for name in resources
    ]
    return " or ".join(f"{keys}.{key}" for key in dict.fromkeys(found))
