"""Which workers are chosen."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.placement import (
    Need,
    Placement,
    Refusal,
    RefusalReason,
    WorkerView,
    can_exchange,
    place,
    prefix_holder,
)
from wire.identity import Role, WorkerRef
from wire.layout import KvLayout

LAYOUT = KvLayout(num_layers=1, num_kv_heads=1, head_size=4, block_size=16, dtype="float32")
SMALLER_BLOCKS = KvLayout(num_layers=1, num_kv_heads=1, head_size=4, block_size=4, dtype="float16")
OTHER_HEADS = KvLayout(num_layers=1, num_kv_heads=1, head_size=8, block_size=16, dtype="float32")


def worker(name: str, role: Role, **options: Any) -> WorkerView:
    defaults: dict[str, Any] = {
        "ready": True,
        "content": "c",
        "layout": LAYOUT,
        "transport": "nixl",
        "capacity_tokens": 1000,
    }
    return WorkerView(ref=WorkerRef(name, 1), role=role, **{**defaults, **options})


def prefill(name: str = "p0", **options: Any) -> WorkerView:
    return worker(name, Role.PREFILL, **options)


def decode(name: str = "d0", **options: Any) -> WorkerView:
    return worker(name, Role.DECODE, **options)


def need(**options: Any) -> Need:
    defaults: dict[str, Any] = {"key": "r", "num_prompt_tokens": 100, "num_tokens": 200}
    return Need(**{**defaults, **options})


def chosen(workers: list[WorkerView], wanted: Need | None = None) -> tuple[str, str | None]:
    found = place(workers, wanted or need())
    assert isinstance(found, Placement)
    return found.first.worker_id, found.destination and found.destination.worker_id


@pytest.mark.parametrize(
    ("workers", "pair"),
    [
        pytest.param([prefill(), decode()], ("p0", "d0"), id="a pair serves"),
        pytest.param(
            [prefill("p0", placed_tokens=500), prefill("p1"), decode()],
            ("p1", "d0"),
            id="the prefill worker with less to compute",
        ),
        pytest.param(
            [prefill("p0", reported_tokens=500), prefill("p1", placed_tokens=400), decode()],
            ("p1", "d0"),
            id="other routers' requests count",
        ),
        pytest.param(
            [prefill("p0"), prefill("p1", num_hit_tokens=96, placed_tokens=50), decode()],
            ("p1", "d0"),
            id="a cached prefix is worth some waiting",
        ),
        pytest.param(
            [prefill("p0"), prefill("p1", num_hit_tokens=96, placed_tokens=500), decode()],
            ("p0", "d0"),
            id="but not any waiting",
        ),
        pytest.param(
            [prefill(), decode("d0", placed_sequences=3), decode("d1", reported_sequences=2)],
            ("p0", "d1"),
            id="the decode worker with fewer sequences",
        ),
        pytest.param(
            [prefill(), decode("d0"), decode("d1", num_hit_tokens=64)],
            ("p0", "d1"),
            id="of equal decode workers the one with the prefix",
        ),
        pytest.param(
            [prefill("p0", content="other"), prefill("p1", placed_tokens=900), decode()],
            ("p1", "d0"),
            id="only equal contents pair",
        ),
        pytest.param(
            [prefill("p0", transport="memory"), prefill("p1", placed_tokens=900), decode()],
            ("p1", "d0"),
            id="only equal transports pair",
        ),
        pytest.param(
            [prefill("p0", layout=OTHER_HEADS), prefill("p1", placed_tokens=900), decode()],
            ("p1", "d0"),
            id="no conversion leads from one head size to another",
        ),
        pytest.param(
            [prefill("p0", layout=SMALLER_BLOCKS), prefill("p1", placed_tokens=900), decode()],
            ("p0", "d0"),
            id="blocks of another size and dtype are converted",
        ),
        pytest.param([decode()], ("d0", None), id="a lone decode worker serves it all"),
        pytest.param([prefill()], ("p0", None), id="a lone prefill worker serves it all"),
        pytest.param(
            [prefill(content="other", placed_tokens=5), decode()],
            ("d0", None),
            id="where nobody pairs one serves alone",
        ),
        pytest.param(
            [prefill(), decode("d0", ready=False)], ("p0", None), id="draining is like absent"
        ),
        pytest.param(
            [prefill("p0", capacity_tokens=199), prefill("p1", placed_tokens=900), decode()],
            ("p1", "d0"),
            id="the sequence must fit",
        ),
    ],
)
def test_the_right_pair_is_chosen(workers: list[WorkerView], pair: tuple[str, str | None]) -> None:
    assert chosen(workers) == pair
    assert chosen(workers[::-1]) == pair


def test_one_token_needs_no_destination() -> None:
    assert chosen([decode(), prefill()], need(single_token=True)) == ("p0", None)


def test_a_worker_that_failed_the_request_is_taken_only_when_alone() -> None:
    avoid = frozenset({WorkerRef("p0", 1), WorkerRef("d0", 1)})
    workers = [prefill("p0"), prefill("p1", placed_tokens=900), decode("d0"), decode("d1")]
    assert chosen(workers, need(avoid=avoid)) == ("p1", "d1")
    assert chosen(workers[::2], need(avoid=avoid)) == ("p0", "d0")


def test_equal_workers_share_the_requests() -> None:
    workers = [prefill(f"p{i}") for i in range(4)] + [decode(f"d{i}") for i in range(4)]
    pairs = [chosen(workers, need(key=f"request {i}")) for i in range(800)]
    firsts, seconds = Counter(p for p, _ in pairs), Counter(d for _, d in pairs)
    assert min(firsts.values()) > 130
    assert min(seconds.values()) > 130
    assert pairs == [chosen(workers, need(key=f"request {i}")) for i in range(800)]


def test_refusals_say_why() -> None:
    assert place([], need()) == Refusal(RefusalReason.NO_WORKERS, "no worker is ready")
    refusal = place([prefill(capacity_tokens=50)], need())
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.TOO_LONG
    assert "200" in refusal.detail
    assert "50" in refusal.detail


@pytest.mark.parametrize(
    ("others", "holder"),
    [
        pytest.param([decode(num_hit_tokens=300)], "d0", id="who has most more"),
        pytest.param([decode(num_hit_tokens=299)], None, id="a few more are computed faster"),
        pytest.param(
            [decode(num_hit_tokens=900, transport="memory")], None, id="it must be able to send"
        ),
        pytest.param(
            [decode("d0", num_hit_tokens=400), prefill("p1", num_hit_tokens=500)],
            "p1",
            id="prefill workers share too",
        ),
    ],
)
def test_a_prefix_is_fetched_from_who_has_much_more(
    others: list[WorkerView], holder: str | None
) -> None:
    first = prefill(num_hit_tokens=44)
    found = prefix_holder([first, *others], first.ref, min_tokens=256)
    assert (found.worker_id if found else None) == holder


views = st.builds(
    WorkerView,
    ref=st.builds(WorkerRef, st.sampled_from("abcdefgh"), st.just(1)),
    role=st.sampled_from(Role),
    ready=st.booleans(),
    content=st.sampled_from("xy"),
    layout=st.sampled_from([LAYOUT, SMALLER_BLOCKS, OTHER_HEADS]),
    transport=st.sampled_from(["nixl", "memory"]),
    capacity_tokens=st.sampled_from([100, 300]),
    num_hit_tokens=st.integers(0, 100),
    placed_tokens=st.integers(0, 500),
    placed_sequences=st.integers(0, 9),
)


@given(st.lists(views, unique_by=lambda view: view.ref), st.booleans())
def test_no_choice_is_incompatible_draining_or_too_small(
    workers: list[WorkerView], single_token: bool
) -> None:
    by_ref = {view.ref: view for view in workers}
    found = place(workers, need(single_token=single_token))
    usable = [view for view in workers if view.ready and view.capacity_tokens >= 200]
    if isinstance(found, Refusal):
        assert not usable
        return
    first = by_ref[found.first]
    assert first in usable
    if found.destination is None:
        return
    destination = by_ref[found.destination]
    assert destination in usable
    assert not single_token
    assert (first.role, destination.role) == (Role.PREFILL, Role.DECODE)
    assert can_exchange(first, destination)
