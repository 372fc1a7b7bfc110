"""On which node a process runs, and what a person hears when there is none."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from cluster.config import load_config
from cluster.demands import pairing, router_demand, worker_demand
from cluster.labels import is_selector, matches
from cluster.placement import Demand, Node, Pairing, Placed, ranked, same_node
from cluster.ray_config import PlacementRule
from cluster.shortage import explain

pytestmark = pytest.mark.quick


def a_node(name: str, cpus: float = 4, **labels: str) -> Node:
    amounts = {"CPU": cpus}
    return Node(name, f"10.0.0.{name}", labels, amounts, amounts)


def a_demand(
    kind: str, placement: PlacementRule = PlacementRule.PACK, labels: dict[str, str] | None = None
) -> Demand:
    return Demand(kind, {"CPU": 1}, labels or {}, placement)


def settle(
    demands: list[Demand], nodes: list[Node], pairing: Pairing | None = None
) -> list[Placed]:
    """One after the other, each on its best node, while Ray still tells what was free at first."""
    placed: list[Placed] = []
    for demand in demands:
        best = ranked(demand, nodes, placed, pairing)[0]
        placed.append(Placed(demand, best.node_id))
    return placed


def shown(placed: list[Placed]) -> list[str]:
    return sorted(f"{it.demand.kind[0]}{it.node_id}" for it in placed)


NODES = [a_node("1", 2), a_node("2", 2), a_node("3", 2)]


def test_packed_workers_fill_one_node_before_the_next() -> None:
    placed = settle([a_demand("prefill"), a_demand("decode"), a_demand("decode")], NODES)
    assert shown(placed) == ["d1", "d2", "p1"]


def test_spread_workers_are_on_as_many_nodes_as_there_are() -> None:
    placed = settle(4 * [a_demand("decode", PlacementRule.SPREAD)], NODES)
    assert sorted(Counter(it.node_id for it in placed).values()) == [1, 1, 2]


def test_one_per_node_never_puts_two_on_a_node_but_another_kind_may_join() -> None:
    single = a_demand("decode", PlacementRule.ONE_PER_NODE)
    placed = settle(3 * [single], NODES)
    assert shown(placed) == ["d1", "d2", "d3"]
    assert ranked(single, NODES, placed) == []
    assert len(ranked(a_demand("prefill"), NODES, placed)) == 3


def test_only_nodes_with_the_labels_count() -> None:
    nodes = [a_node("1", rack="a"), a_node("2", rack="b"), a_node("3")]
    wants = a_demand("decode", labels={"rack": "!in(a, c)"})
    assert [node.node_id for node in ranked(wants, nodes, [])] == ["2", "3"]


def test_workers_without_gpus_leave_nodes_with_gpus_alone() -> None:
    gpus = Node("1", "10.0.0.1", {}, {"CPU": 8, "GPU": 8}, {"CPU": 8, "GPU": 8})
    assert [it.node_id for it in ranked(a_demand("prefill"), [gpus, a_node("2")], [])] == ["2", "1"]


def test_among_equal_nodes_a_router_runs_where_the_driver_does() -> None:
    assert ranked(a_demand("router"), NODES, [], home="2")[0].node_id == "2"


def test_a_router_returns_to_its_node_or_to_a_new_one_at_the_same_address() -> None:
    former, other = a_node("1"), a_node("2")
    rebuilt = Node("9", former.address)
    assert same_node(former, [other, rebuilt, former]) is former
    assert same_node(former, [other, rebuilt]) is rebuilt
    assert same_node(former, [other]) is None


def a_pairing(prefill: int, decode: int, placement: PlacementRule = PlacementRule.PACK) -> Pairing:
    replicas = {"prefill": prefill, "decode": decode}
    return Pairing("rack", {kind: a_demand(kind, placement) for kind in replicas}, replicas)


@pytest.mark.parametrize("placement", [PlacementRule.PACK, PlacementRule.SPREAD])
def test_each_rack_gets_both_kinds_however_the_pools_are_placed(placement: PlacementRule) -> None:
    racks = [a_node(str(n), 1, rack="ab"[n % 2]) for n in range(4)]
    pairs = 2 * [a_demand("prefill", placement), a_demand("decode", placement)]
    placed = settle(pairs, racks, a_pairing(2, 2, placement))
    by_rack = Counter(("ab"[int(it.node_id) % 2], it.demand.kind) for it in placed)
    assert set(by_rack.values()) == {1}
    assert len(by_rack) == 4


def test_more_decode_than_prefill_workers_are_shared_out_in_proportion() -> None:
    racks = [a_node(str(n), 3, rack="ab"[n]) for n in range(2)]
    config = load_config(None, {"prefill.replicas": 2, "decode.replicas": 4, "ray.near": "rack"})
    demands = [worker_demand(pool) for pool, _ in config.workers()]
    near = pairing(config, "tiny-python")
    assert shown(settle(demands, racks, near)) == [
        "d0",
        "d0",
        "d1",
        "d1",
        "p0",
        "p1",
    ]


def test_the_first_of_a_pair_goes_where_the_second_has_room_too() -> None:
    racks = [a_node("1", 1, rack="a"), a_node("2", 2, rack="b")]
    assert shown(settle([a_demand("prefill"), a_demand("decode")], racks, a_pairing(1, 1))) == [
        "d2",
        "p2",
    ]


def test_what_a_worker_asks_for_is_one_bundle() -> None:
    config = load_config(
        None,
        {
            "prefill.num_gpus": 4,
            "prefill.resources": {"nic": 1},
            "prefill.accelerator_type": "H100",
            "prefill.labels": {"rack": "r1"},
            "decode.num_cpus": 0,
        },
    )
    assert worker_demand(config.pool("prefill")) == Demand(
        "prefill",
        {"CPU": 1, "GPU": 4, "nic": 1, "accelerator_type:H100": 0.001},
        {"rack": "r1"},
    )
    assert worker_demand(config.pool("decode")).bundle == {"CPU": 0.001}
    assert router_demand(config).bundle == {}


@pytest.mark.parametrize(
    ("demand", "complaint"),
    [
        (
            a_demand("decode", labels={"rack": "c"}),
            "no node has these labels: of 2 nodes, rack is a or b. .*change decode.labels",
        ),
        (
            Demand("decode", {"CPU": 1, "GPU": 2, "accelerator_type:H100": 0.001}),
            r"no node is as large: .*short of GPU, accelerator_type:H100\).*"
            "change decode.num_gpus or decode.accelerator_type",
        ),
        (Demand("decode", {"CPU": 3}), r"10.0.0.1 has free {'CPU': 2}.*lower decode.replicas"),
        (
            a_demand("decode", PlacementRule.ONE_PER_NODE),
            "every node that is large enough has a decode worker already.*change decode.placement",
        ),
    ],
)
def test_who_has_no_room_hears_what_is_there_and_which_key_to_change(
    demand: Demand, complaint: str
) -> None:
    labels = ({"rack": "a"}, {"rack": "b"})
    nodes = [Node(n, f"10.0.0.{n}", labels[int(n) - 1], {"CPU": 4}, {"CPU": 2}) for n in "12"]
    placed = [Placed(demand, node.node_id) for node in nodes]
    assert re.search(complaint, explain(demand, nodes, placed, "decode"))


@pytest.mark.parametrize(
    ("selector", "value", "meant"),
    [
        ("a", "a", True),
        ("a", None, False),
        ("!a", None, True),
        ("!a", "a", False),
        ("in(a, b)", "b", True),
        ("in(a,b)", "c", False),
        ("!in(a, b)", "b", False),
        ("!in(a, b)", "c", True),
    ],
)
def test_selectors_mean_what_they_mean_to_ray(
    selector: str, value: str | None, meant: bool
) -> None:
    assert is_selector(selector)
    assert matches({"k": selector}, {} if value is None else {"k": value}) is meant
