"""What the router knows of its workers."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from router.placing.cost_model import Hits
from router.placing.fleet_table import UNKNOWN_COSTS
from router.placing.ledger import Ledger, PromptHashes
from router.placing.lengths import FIRST_GUESS, MOST_TENANTS, Lengths
from router.placing.placement_request import Placement, PlacementRequest
from tests.router.ledgers import COSTS, LAYOUT, Scene, card, report
from wire.identity import AttemptId, Role, WorkerRef
from wire.reports import CacheEvents, StepCosts
from wire.traits import RequestTraits

pytestmark = pytest.mark.quick


def need(**options: int) -> PlacementRequest:
    return PlacementRequest(key="r", **{"num_prompt_tokens": 1000, "num_tokens": 1200, **options})  # type: ignore[arg-type]


def place(ledger: Ledger, attempt_id: AttemptId, now: float = 0.0) -> WorkerRef:
    hits = Hits.none(len(ledger.table.refs))
    found = ledger.place(need(), hits, now)
    assert isinstance(found, Placement)
    ledger.placed(attempt_id, found, need(), hits, now)
    ledger.submitted(found.first, attempt_id)
    return found.first


def test_requests_that_come_together_spread_before_any_report() -> None:
    scene = Scene()
    for number in range(4):
        scene.add(f"p{number}", Role.PREFILL, costs=COSTS)
    taken = [place(scene.ledger, AttemptId(f"r{number}")) for number in range(8)]
    assert sorted(taken[:4], key=str) == sorted({*taken[:4]}, key=str)
    assert all(taken.count(ref) == 2 for ref in taken)


def test_several_routers_share_load_through_what_workers_report() -> None:
    """Each knows its own at once, and the other's from the next report."""
    ledgers = [Ledger(f"router-{n}", 100) for n in range(2)]
    cards = [card(f"p{n}", Role.PREFILL) for n in range(2)]
    for ledger in ledgers:
        for each in cards:
            ledger.add(each)
            ledger.set_ready(each.ref, True)
    first = place(ledgers[0], AttemptId("a"))
    told = report(waiting_tokens=1000, waiting_prompts=1, seen_submits={"router-0": 1})
    for ledger in ledgers:
        ledger.on_report(first, told)
    for ledger in ledgers:
        load = ledger.load(first)
        assert load is not None
        assert load.queued_tokens == 1000
    assert place(ledgers[1], AttemptId("b")) != first


def test_a_worker_that_has_told_nothing_has_the_costs_of_its_kind() -> None:
    scene = Scene()
    told, quiet = scene.add("p0", Role.PREFILL), scene.add("d0", Role.DECODE)
    other = scene.add("x0", Role.DECODE, content="another model")
    table = scene.ledger.table
    rows = {ref: table.row(ref) for ref in (told, quiet, other)}
    assert not scene.ledger.calibrated
    prompts_only = StepCosts(
        step_s=1e-3,
        sequence_s=None,
        context_token_s=None,
        prompt_token_s=7e-6,
        prompt_pair_s=1e-9,
    )
    scene.ledger.on_report(told, report(costs=prompts_only))
    assert table.prompt_token_s[rows[quiet]] == 7e-6
    assert table.prompt_token_s[rows[other]] == UNKNOWN_COSTS.prompt_token_s
    assert not table.calibrated[rows[told]], "nobody of its kind knows what decoding takes"
    scene.ledger.on_report(quiet, report(costs=COSTS))
    assert table.prompt_token_s[rows[quiet]] == COSTS.prompt_token_s
    assert table.sequence_s[rows[told]] == COSTS.sequence_s
    assert table.calibrated[rows[told]]
    assert not scene.ledger.calibrated


def test_the_first_that_tells_of_prompts_tells_it_for_all_however_many_told_of_decoding() -> None:
    scene = Scene()
    decoding = [scene.add(f"d{number}", Role.DECODE) for number in range(4)]
    first, quiet = scene.add("p0", Role.PREFILL), scene.add("p1", Role.PREFILL)
    decodes_only = msgspec.structs.replace(COSTS, prompt_token_s=None, prompt_pair_s=None)
    prompts_only = msgspec.structs.replace(COSTS, sequence_s=None, context_token_s=None)
    for ref in decoding:
        scene.ledger.on_report(ref, report(costs=decodes_only))
    scene.ledger.on_report(first, report(costs=prompts_only))
    table = scene.ledger.table
    assert table.prompt_token_s[table.row(quiet)] == COSTS.prompt_token_s
    assert table.calibrated[table.row(quiet)]
    assert scene.ledger.calibrated


def test_a_dead_worker_leaves_its_row_to_the_next() -> None:
    ledger = Ledger("me", 100)
    first = card("w", Role.PREFILL)
    ledger.add(first)
    ledger.set_ready(first.ref, True)
    ledger.cached(first.ref, CacheEvents(number=0, stored=(b"x" * 16,), snapshot=True))
    place(ledger, AttemptId("a"))
    ledger.drop(first.ref)
    assert ledger.index.num_entries == 0
    reborn = card("v", Role.DECODE)
    ledger.add(reborn)
    row = ledger.table.row(reborn.ref)
    assert row == 0
    assert not ledger.table.ready[0]
    assert ledger.table.queued_tokens[0] == 0
    ledger.ended(first.ref, AttemptId("a"))
    ledger.on_report(first.ref, report())


def test_the_table_grows_and_keeps_what_it_has() -> None:
    ledger = Ledger("me", 100)
    for number in range(40):
        each = card(f"w{number}", Role.PREFILL)
        ledger.add(each)
        ledger.on_report(each.ref, report(waiting_tokens=number))
    rows = [ledger.table.row(WorkerRef(f"w{number}", 1)) for number in range(40)]
    assert [ledger.table.queued_tokens[row] for row in rows] == list(range(40))


def test_hits_are_counted_in_tokens_and_by_tenant() -> None:
    scene = Scene()
    worker = scene.add("p0", Role.PREFILL)
    tokens = list(range(100))
    hashes = PromptHashes(RequestTraits(cache_salt=b"mine"))
    stored = tuple(hashes.of(tokens, LAYOUT.block_size))
    scene.ledger.cached(worker, CacheEvents(number=0, stored=stored, snapshot=True))
    found = scene.ledger.hits(tokens, hashes)
    assert found.device[scene.ledger.table.row(worker)] == 96
    uncached = PromptHashes(RequestTraits(cache_salt=b"mine", cache_prompt=False))
    assert not scene.ledger.hits(tokens, uncached).either.any()
    strangers = scene.ledger.hits(tokens, PromptHashes(RequestTraits(cache_salt=b"theirs")))
    assert not np.any(strangers.either)


def test_lengths_are_learned_by_tenant() -> None:
    lengths = Lengths()
    assert lengths.expected("new", 1000) == FIRST_GUESS
    for _ in range(200):
        lengths.observe("long", 500)
        lengths.observe("short", 20)
    assert lengths.expected("long", 1000) == pytest.approx(500)
    assert lengths.expected("short", 1000) == pytest.approx(20)
    assert 200 < lengths.expected("new", 1000) < 320
    assert lengths.expected("long", 100) == 100
    for number in range(MOST_TENANTS + 1):
        lengths.observe(f"t{number}", 1)
    assert lengths.expected("long", 1000) < 100, "the quietest are forgotten"
