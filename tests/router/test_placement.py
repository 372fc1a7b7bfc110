"""Which workers are chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefill_worker.scheduler import PrefillPolicy
from router.placing.placement_request import (
    Placement,
    PlacementRequest,
    Refusal,
    RefusalReason,
    Slo,
    Split,
)
from tests.router.ledgers import COSTS, LAYOUT, Scene
from wire.identity import Role, WorkerRef
from wire.layout import KvLayout
from wire.reports import StepCosts

pytestmark = pytest.mark.quick

SMALLER_BLOCKS = KvLayout(
    num_layers=32, num_kv_heads=8, head_size=128, block_size=4, dtype="bfloat16"
)
OTHER_HEADS = KvLayout(num_layers=32, num_kv_heads=8, head_size=64, block_size=16, dtype="float16")
P, D = Role.PREFILL, Role.DECODE
Added = tuple[str, Role, dict[str, Any]]
BUSY = {"waiting_tokens": 9000, "waiting_prompts": 3}


def scene(*workers: Added, costs: StepCosts | None = None) -> Scene:
    made = Scene()
    for name, role, options in workers:
        made.add(name, role, **{"costs": costs, **options})
    return made


def need(**options: Any) -> PlacementRequest:
    defaults: dict[str, Any] = {"key": "r", "num_prompt_tokens": 1000, "num_tokens": 1200}
    return PlacementRequest(**{**defaults, **options})


def chosen(made: Scene, wanted: PlacementRequest | None = None) -> tuple[str, str | None]:
    found = made.ledger.place(wanted or need(), made.hits, now=0.0)
    assert isinstance(found, Placement)
    return found.first.worker_id, found.destination and found.destination.worker_id


@pytest.mark.parametrize(
    ("workers", "pair"),
    [
        pytest.param([("p0", P, {}), ("d0", D, {})], ("p0", "d0"), id="a pair serves"),
        pytest.param(
            [("p0", P, {"told": BUSY}), ("p1", P, {}), ("d0", D, {})],
            ("p1", "d0"),
            id="the prefill worker with less to compute",
        ),
        pytest.param(
            [
                ("p0", P, {}),
                ("p1", P, {"hits": 960, "told": {"waiting_tokens": 500}}),
                ("d0", D, {}),
            ],
            ("p1", "d0"),
            id="a cached prefix is worth some waiting",
        ),
        pytest.param(
            [("p0", P, {}), ("p1", P, {"hits": 960, "told": BUSY}), ("d0", D, {})],
            ("p0", "d0"),
            id="but not any waiting",
        ),
        pytest.param(
            [
                ("p0", P, {}),
                ("d0", D, {"told": {"num_decoding": 3, "context_tokens": 3000}}),
                ("d1", D, {"told": {"num_decoding": 2, "context_tokens": 2000}}),
            ],
            ("p0", "d1"),
            id="the decode worker with fewer sequences",
        ),
        pytest.param(
            [
                ("p0", P, {}),
                ("d0", D, {"told": {"free_blocks": 10}}),
                ("d1", D, {"told": {"num_decoding": 20, "context_tokens": 9000}}),
            ],
            ("p0", "d1"),
            id="the decode worker that has room",
        ),
        pytest.param(
            [("p0", P, {}), ("d0", D, {}), ("d1", D, {"hits": 960})],
            ("p0", "d1"),
            id="of equal decode workers the one with the prefix",
        ),
        pytest.param(
            [("p0", P, {"content": "other"}), ("p1", P, {"told": BUSY}), ("d0", D, {})],
            ("p1", "d0"),
            id="only equal contents pair",
        ),
        pytest.param(
            [("p0", P, {"transport": "memory"}), ("p1", P, {"told": BUSY}), ("d0", D, {})],
            ("p1", "d0"),
            id="only equal transports pair",
        ),
        pytest.param(
            [("p0", P, {"layout": OTHER_HEADS}), ("p1", P, {"told": BUSY}), ("d0", D, {})],
            ("p1", "d0"),
            id="no conversion leads from one head size to another",
        ),
        pytest.param(
            [("p0", P, {"layout": SMALLER_BLOCKS}), ("p1", P, {"told": BUSY}), ("d0", D, {})],
            ("p0", "d0"),
            id="blocks of another size and dtype are converted",
        ),
        pytest.param([("d0", D, {})], ("d0", None), id="a lone decode worker serves it all"),
        pytest.param([("p0", P, {})], ("p0", None), id="a lone prefill worker serves it all"),
        pytest.param(
            [("p0", P, {"content": "other", "told": BUSY}), ("d0", D, {})],
            ("d0", None),
            id="where nobody pairs one serves alone",
        ),
        pytest.param(
            [("p0", P, {}), ("d0", D, {"ready": False})], ("p0", None), id="draining is absent"
        ),
        pytest.param(
            [("p0", P, {"max_model_len": 1199}), ("p1", P, {"told": BUSY}), ("d0", D, {})],
            ("p1", "d0"),
            id="the sequence must fit",
        ),
    ],
)
def test_before_steps_are_known_the_best_pair_serves(
    workers: list[Added], pair: tuple[str, str | None]
) -> None:
    assert chosen(scene(*workers)) == pair
    assert chosen(scene(*workers[::-1])) == pair


def known(*workers: Added) -> Scene:
    return scene(*workers, costs=COSTS)


STREAMS = {"num_decoding": 30, "context_tokens": 60_000}


def test_a_short_prompt_is_not_worth_a_handoff() -> None:
    made = known(("p0", P, {}), ("d0", D, {"told": {"num_decoding": 1, "context_tokens": 900}}))
    assert chosen(made, need(num_prompt_tokens=20, num_tokens=220))[1] is None


def test_a_long_prompt_does_not_stop_the_streams_of_a_decode_worker() -> None:
    made = known(("p0", P, {"told": {"waiting_tokens": 2000}}), ("d0", D, {"told": STREAMS}))
    assert chosen(made, need(num_prompt_tokens=20_000, num_tokens=21_000))[0] == "p0"


def test_when_prefill_workers_are_full_a_decode_worker_computes_the_prompt() -> None:
    full = {"waiting_tokens": 300_000, "waiting_prompts": 30}
    made = known(("p0", P, {"told": full}), ("d0", D, {"told": {"num_decoding": 2}}))
    assert chosen(made) == ("d0", None)


def test_when_the_decode_pool_is_full_the_prefill_worker_goes_on() -> None:
    full = {"num_decoding": 200, "context_tokens": 300_000, "free_blocks": 0}
    made = known(("p0", P, {}), ("d0", D, {"told": full}))
    assert chosen(made) == ("p0", None)


def test_splitting_can_be_forced_and_forbidden() -> None:
    made = known(("p0", P, {}), ("d0", D, {}))
    assert chosen(made, need(split=Split.ALWAYS)) == ("p0", "d0")
    assert chosen(made, need(split=Split.NEVER))[1] is None


def test_a_target_for_each_token_keeps_a_loaded_worker_from_one_more() -> None:
    """The first has the prefix, and its steps take nearly what they may."""
    loaded = {"num_decoding": 100, "context_tokens": 300_000}
    made = known(
        ("d0", D, {"told": loaded, "hits": 992}),
        ("d1", D, {"told": {"num_decoding": 90, "context_tokens": 100_000}}),
    )
    assert chosen(made, need(slo=Slo(tpot_s=0.021)))[0] == "d1"


def test_a_slow_link_is_avoided() -> None:
    made = known(("p0", P, {}), ("d0", D, {}), ("d1", D, {}))
    p0, d0, d1 = (WorkerRef(name, 1) for name in ("p0", "d0", "d1"))
    made.link(p0, d0, 1e6)
    made.link(p0, d1, 1e10)
    assert chosen(made, need(split=Split.ALWAYS)) == ("p0", "d1")


def test_a_hot_prefix_comes_to_a_second_worker() -> None:
    busy = {"waiting_tokens": 30_000, "waiting_prompts": 3}
    made = known(("p0", P, {"hits": 9600, "told": busy}), ("p1", P, {}))
    assert chosen(made, need(num_prompt_tokens=10_000, num_tokens=10_200))[0] == "p1"
    p0, p1 = WorkerRef("p0", 1), WorkerRef("p1", 1)
    made.link(p0, p1, 2e10)
    assert made.ledger.prefix_holder(made.hits, p1, min_tokens=256) == p0


def test_one_token_needs_no_destination() -> None:
    for make in (scene, known):
        assert chosen(make(("d0", D, {}), ("p0", P, {})), need(single_token=True)) == ("p0", None)


@pytest.mark.parametrize("make", [scene, known])
def test_a_worker_that_failed_the_request_is_taken_only_when_alone(
    make: Callable[..., Scene],
) -> None:
    avoid = frozenset({WorkerRef("p0", 1), WorkerRef("d0", 1)})
    wanted = need(avoid=avoid, split=Split.ALWAYS)
    workers: list[Added] = [("p0", P, {}), ("p1", P, {"told": BUSY}), ("d0", D, {}), ("d1", D, {})]
    assert chosen(make(*workers), wanted) == ("p1", "d1")
    assert chosen(make(*workers[::2]), wanted) == ("p0", "d0")


def test_equal_workers_share_the_requests() -> None:
    made = scene(*((f"p{i}", P, {}) for i in range(4)), *((f"d{i}", D, {}) for i in range(4)))
    pairs = [chosen(made, need(key=f"request {i}")) for i in range(800)]
    firsts, seconds = Counter(p for p, _ in pairs), Counter(d for _, d in pairs)
    assert min(firsts.values()) > 130
    assert min(seconds.values()) > 130
    assert pairs == [chosen(made, need(key=f"request {i}")) for i in range(800)]


def test_refusals_say_why() -> None:
    empty = Scene()
    nobody = empty.ledger.place(need(), empty.hits, 0.0)
    assert nobody == Refusal(RefusalReason.NO_WORKERS, "no worker is ready")
    small = scene(("p0", P, {"max_model_len": 50}))
    refusal = small.ledger.place(need(), small.hits, 0.0)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.TOO_LONG
    assert "1200" in refusal.detail
    assert "50" in refusal.detail


@pytest.mark.parametrize(
    ("others", "holder"),
    [
        pytest.param([("d0", D, {"hits": 300})], "d0", id="who has most more"),
        pytest.param([("d0", D, {"hits": 299})], None, id="a few more are computed faster"),
        pytest.param(
            [("d0", D, {"hits": 900, "transport": "memory"})], None, id="it must be able to send"
        ),
        pytest.param(
            [("d0", D, {"hits": 400}), ("p1", P, {"hits": 500})],
            "p1",
            id="prefill workers share too",
        ),
    ],
)
def test_a_prefix_is_fetched_from_who_has_much_more(
    others: list[Added], holder: str | None
) -> None:
    made = scene(("p0", P, {"hits": 44}), *others)
    found = made.ledger.prefix_holder(made.hits, WorkerRef("p0", 1), min_tokens=256)
    assert (found.worker_id if found else None) == holder


def test_a_prefix_that_travels_longer_than_it_is_computed_stays() -> None:
    made = known(("p0", P, {}), ("p1", P, {"hits": 900}))
    p0, p1 = WorkerRef("p0", 1), WorkerRef("p1", 1)
    made.link(p1, p0, 1e12)
    assert made.ledger.prefix_holder(made.hits, p0, min_tokens=256) == p1
    made.link(p1, p0, 1e9)
    assert made.ledger.prefix_holder(made.hits, p0, min_tokens=256) is None


def test_another_destination_is_none_that_was_asked() -> None:
    made = known(("p0", P, {}), ("d0", D, {}), ("d1", D, {"told": STREAMS}), ("d2", D, {}))
    first = WorkerRef("p0", 1)
    avoid = frozenset({WorkerRef("d0", 1)})
    hits = made.hits
    found = made.ledger.another_destination(need(avoid=avoid), hits, first, 0.0)
    assert found == WorkerRef("d2", 1)
    avoid |= {WorkerRef("d2", 1), WorkerRef("d1", 1)}
    assert made.ledger.another_destination(need(avoid=avoid), hits, first, 0.0) is None


workers = st.tuples(
    st.sampled_from("abcdefgh"),
    st.sampled_from(Role),
    st.fixed_dictionaries(
        {
            "ready": st.booleans(),
            "content": st.sampled_from("xy"),
            "layout": st.sampled_from([LAYOUT, SMALLER_BLOCKS, OTHER_HEADS]),
            "transport": st.sampled_from(["nixl", "memory"]),
            "max_model_len": st.sampled_from([1000, 3000]),
            "hits": st.integers(0, 1000),
            "told": st.fixed_dictionaries(
                {"waiting_tokens": st.integers(0, 500), "num_decoding": st.integers(0, 9)}
            ),
        }
    ),
)


@given(
    st.lists(workers, unique_by=lambda worker: worker[0]),
    st.booleans(),
    st.sampled_from(Split),
    st.sampled_from([None, COSTS]),
)
def test_no_choice_is_incompatible_draining_or_too_small(
    added: list[Added], single_token: bool, split: Split, costs: StepCosts | None
) -> None:
    made = scene(*added, costs=costs)
    found = made.ledger.place(need(single_token=single_token, split=split), made.hits, 0.0)
    usable = {
        name: (role, options)
        for name, role, options in added
        if options["ready"] and options["max_model_len"] >= 1200
    }
    if isinstance(found, Refusal):
        assert not usable
        return
    role, first = usable[found.first.worker_id]
    if found.destination is None:
        return
    other_role, destination = usable[found.destination.worker_id]
    assert not single_token
    assert (role, other_role) == (P, D)
    for name in ("content", "transport"):
        assert first[name] == destination[name]
    assert (first["layout"] is OTHER_HEADS) == (destination["layout"] is OTHER_HEADS)


SLOW_STEPS = {"num_decoding": 3, "context_tokens": 300_000}


def test_with_targets_only_one_that_nobody_alone_keeps_is_worth_a_handoff() -> None:
    """The worker with the prefix decodes too slowly, and the other has prompts for seconds."""
    made = known(
        ("p0", P, {"hits": 19_200, "told": SLOW_STEPS}),
        ("d0", D, {"told": {"waiting_tokens": 60_000, "waiting_prompts": 3}}),
    )
    asked = {"num_prompt_tokens": 20_000, "num_tokens": 20_200}
    assert chosen(made, need(**asked, slo=Slo(1.0, 0.015))) == ("p0", "d0")
    assert chosen(made, need(**asked, slo=Slo(1.0, 0.1)))[1] is None, "nothing is missed"
    assert chosen(made, need(**asked, slo=Slo(1.0, 0.001)))[1] is None, "nothing is kept"


def test_a_much_shorter_prompt_does_not_wait_for_long_ones() -> None:
    made = known(("d0", D, {"told": {"waiting_tokens": 100_000, "waiting_prompts": 1}}))
    short, long = (
        made.ledger.place(need(num_prompt_tokens=size, num_tokens=size + 9), made.hits, now=0.0)
        for size in (1000, 30_000)
    )
    assert isinstance(short, Placement)
    assert isinstance(long, Placement)
    assert short.ttft_s < long.queue_s / 2 < long.ttft_s


def test_a_long_answer_goes_where_no_prompts_wait_for_its_steps() -> None:
    made = known(
        ("d0", D, {"told": {"waiting_tokens": 100, "waiting_prompts": 2}, "hits": 992}),
        ("d1", D, {}),
    )
    assert chosen(made, need(num_new_tokens=1.0))[0] == "d0"
    assert chosen(made, need(num_new_tokens=3000.0))[0] == "d1"


def test_a_worker_that_takes_more_of_prompts_in_a_step_makes_them_wait_for_fewer_steps() -> None:
    told = {"waiting_tokens": 2048, "waiting_prompts": 8}
    long_steps = StepCosts(
        step_s=0.2, sequence_s=0.0, context_token_s=0.0, prompt_token_s=0.0, prompt_pair_s=0.0
    )
    made = scene(
        ("short", P, {"policies": {P: PrefillPolicy(512).traits}, "told": told}),
        ("long", P, {"policies": {P: PrefillPolicy(4096).traits}, "told": told}),
        costs=long_steps,
    )
    found = made.ledger.place(need(single_token=True), made.hits, now=0.0)
    assert isinstance(found, Placement)
    assert found.first.worker_id == "long"
    assert found.queued_steps == pytest.approx(0.5)
    assert found.queue_s == pytest.approx(0.1)
    assert found.prefill_s == pytest.approx(0.2)
