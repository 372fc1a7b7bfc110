"""What a worker has to do, as a router counts it between two reports."""

from __future__ import annotations

import pytest

from router.placing.worker_load import WorkerLoad
from tests.router.ledgers import report
from wire.identity import AttemptId

pytestmark = pytest.mark.quick

A, B = AttemptId("a"), AttemptId("b")


def placed(
    load: WorkerLoad, attempt_id: AttemptId, tokens: float = 100.0, *, stays: bool = True
) -> int:
    load.place(attempt_id, tokens=tokens, pairs=5.0, context=tokens, growth=20.0, stays=stays)
    return load.submit(attempt_id)


def test_what_was_placed_counts_at_once_and_once() -> None:
    load = WorkerLoad("me", 16)
    load.on_report(report(waiting_tokens=300, waiting_prompts=2))
    number = placed(load, A)
    assert (load.queued_tokens, load.num_prompts) == (400, 3)
    load.on_report(report(waiting_tokens=300, waiting_prompts=2))
    assert load.queued_tokens == 400, "this report was sent before the submission came"
    load.on_report(report(waiting_tokens=400, waiting_prompts=3, seen_submits={"me": number}))
    assert (load.queued_tokens, load.num_prompts) == (400, 3)


def test_a_report_that_heard_another_router_does_not_count_for_this_one() -> None:
    load = WorkerLoad("me", 16)
    placed(load, A)
    load.on_report(report(waiting_tokens=50, seen_submits={"other": 9}))
    assert load.queued_tokens == 150


def test_a_computed_prompt_leaves_the_queue_and_decodes() -> None:
    load = WorkerLoad("me", 16)
    number = placed(load, A)
    load.on_report(report(waiting_tokens=100, waiting_prompts=1, seen_submits={"me": number}))
    load.prefilled(A)
    assert (load.queued_tokens, load.num_prompts, load.num_decoding) == (0, 0, 1)
    load.on_report(report(num_decoding=1, context_tokens=101, seen_submits={"me": number}))
    assert (load.num_decoding, load.context_tokens) == (1, 101)
    load.ended(A)
    assert load.num_decoding == 0
    load.on_report(report(seen_submits={"me": number}))
    assert (load.num_decoding, load.num_legs) == (0, 0)


def test_what_goes_elsewhere_is_expected_there() -> None:
    first, destination = WorkerLoad("me", 16), WorkerLoad("me", 16)
    placed(first, A, stays=False)
    destination.expect(A, context=100.0, growth=20.0)
    assert (destination.num_expected, destination.expected_tokens) == (1, 120)
    first.prefilled(A)
    assert (first.queued_tokens, first.num_decoding) == (0, 0)
    destination.arrived(A)
    assert (destination.num_expected, destination.num_decoding) == (0, 1)
    assert destination.context_tokens == 100


def test_what_is_kept_decodes_where_it_is_whenever_that_is_told() -> None:
    before, after = WorkerLoad("me", 16), WorkerLoad("me", 16)
    for load in (before, after):
        placed(load, A, stays=False)
    before.stays(A)
    before.prefilled(A)
    after.prefilled(A)
    after.stays(A)
    assert before.num_decoding == after.num_decoding == 1


def test_whatever_ends_leaves_nothing() -> None:
    load = WorkerLoad("me", 16)
    placed(load, A)
    load.expect(B, context=9.0, growth=1.0)
    load.ended(A)
    load.ended(B)
    load.ended(B)
    load.on_report(report(seen_submits={"me": 1}))
    amounts = (load.queued_tokens, load.queued_pairs, load.expected_tokens, load.num_legs)
    assert amounts == (0, 0, 0, 0)
    assert load.num_prompts == load.num_expected == 0


def test_prompts_that_no_report_knows_of_need_room_but_do_not_decode_yet() -> None:
    load = WorkerLoad("me", 16)
    placed(load, A)
    assert (load.expected_tokens, load.expected_context) == (120, 0)
    load.expect(B, context=100.0, growth=20.0)
    assert (load.expected_tokens, load.expected_context) == (240, 100)
