"""Explains why a process has no node: what it needs, what there is, and which key to change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.labels import matches
from cluster.placement import ROUNDING, Amounts, Demand, Node, Placed, excluded_nodes
from cluster.ray_config import PlacementRule

MAX_NODES_NAMED = 8


def explain(demand: Demand, nodes: Sequence[Node], placed: Sequence[Placed], keys: str) -> str:
    """The explanation. `keys` is the section in the configuration: "prefill", or "ray.routers"."""
    wants = f"wants {_amounts(demand.bundle)}"
    if demand.labels:
        wants += f" on a node with {_labels(demand)}"
    labelled = [node for node in nodes if matches(demand.labels, node.labels)]
    if not labelled:
        found = _labels_found(demand, nodes)
        return f"{wants}, and no node has these labels: {found}. {_relabel(keys)}"
    able = [node for node in labelled if not _missing(demand, node.total)]
    if not able:
        missing = min((_missing(demand, node.total) for node in labelled), key=len)
        return (
            f"{wants}, and no node is as large: {_free_amounts(demand, labelled, 'has')} (short of "
            f"{', '.join(missing)}). Add nodes, or change {_keys_of(missing, keys)}"
        )
    excluded = set(excluded_nodes(demand, placed))
    if excluded and all(node.node_id in excluded for node in able):
        return (
            f"{wants}, and every node that is large enough has a {demand.kind} worker already. Add "
            f"nodes, or change {keys}.placement, which is {PlacementRule.ONE_PER_NODE.value}, or "
            f"{keys}.replicas"
        )
    return (
        f"{wants}, and no node has that free: {_free_amounts(demand, able, 'has free')}. "
        f"Add nodes, wait until others end, or lower {keys}.replicas or "
        f"{_keys_of(demand.bundle, keys)}"
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


def _labels_found(demand: Demand, nodes: Sequence[Node]) -> str:
    values = {
        key: sorted({node.labels[key] for node in nodes if key in node.labels})
        for key in demand.labels
    }
    texts = [f"{key} is {' or '.join(found) or 'on none'}" for key, found in values.items()]
    return f"of {len(nodes)} nodes, {'; '.join(texts)}"


def _relabel(keys: str) -> str:
    return f"Start nodes with `ray start --labels`, or change {keys}.labels"


def _free_amounts(demand: Demand, nodes: Sequence[Node], verb: str) -> str:
    texts = []
    for node in sorted(nodes, key=lambda node: node.address)[:MAX_NODES_NAMED]:
        amounts = node.total if verb == "has" else node.free
        amounts_wanted = {resource: amounts.get(resource, 0.0) for resource in demand.bundle}
        texts.append(f"{node.address} {verb} {_amounts(amounts_wanted)}")
    if len(nodes) > MAX_NODES_NAMED:
        texts.append(f"{len(nodes) - MAX_NODES_NAMED} more")
    return ", ".join(texts)


def _keys_of(resources: Iterable[str], keys: str) -> str:
    """The keys that request these resources."""
    named = {"CPU": "num_cpus", "GPU": "num_gpus"}
    found = [
        "accelerator_type" if name.startswith("accelerator_type:") else named.get(name, "resources")
        for name in resources
    ]
    return " or ".join(f"{keys}.{key}" for key in dict.fromkeys(found))
