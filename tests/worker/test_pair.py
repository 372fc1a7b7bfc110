"""The ride of a request through both step loops."""

import msgspec
import pytest

from tests.worker.bench import DECODE_STAMP as D
from tests.worker.bench import PREFILL_STAMP as P
from tests.worker.bench import Bench, expected
from wire.handoff import Grant, Offer, Quiesced, Refuse, RefuseReason
from wire.identity import AttemptId, WorkerRef
from wire.messages import Failed, FinishReason, Handed, Kept, Prefilled
from worker.steps.step_context import Peer

pytestmark = pytest.mark.quick

PROMPT = list(range(5, 26))  # 21 tokens: five full blocks of 4 and one token


def test_the_first_token_is_made_by_prefill_and_the_rest_by_decode() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT, max_tokens=5)
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P, D, D, D, D])
    assert bench.outputs(attempt_id)[-1].finish is FinishReason.LENGTH
    bench.check_nothing_is_held()


def test_blocks_leave_during_prefill_and_the_tail_after_it() -> None:
    bench = Bench(chunk_tokens=8)
    bench.submit("a", PROMPT)
    bench.run()
    (handed,) = bench.told(Handed)
    assert isinstance(handed, Handed)
    assert (handed.moved.num_blocks, handed.moved.skipped_blocks) == (6, 0)
    assert handed.moved.num_bytes == 6 * 4 * 16


def test_a_prefix_that_decode_holds_does_not_travel_again() -> None:
    bench = Bench()
    bench.submit("a", PROMPT)
    bench.run()
    attempt_id = bench.submit("b", [*PROMPT[:20], 7, 7, 7])
    bench.run()
    handed = bench.told(Handed)[-1]
    assert isinstance(handed, Handed)
    assert (handed.moved.num_blocks, handed.moved.skipped_blocks) == (1, 5)
    prefilled = bench.told(Prefilled)[-1]
    assert isinstance(prefilled, Prefilled)
    assert prefilled.cached_tokens == 20
    assert bench.tokens(attempt_id) == expected([*PROMPT[:20], 7, 7, 7], [P, D, D, D])
    bench.check_nothing_is_held()


def test_an_answer_of_one_token_never_reaches_decode() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT, max_tokens=1)
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P])
    assert not bench.told(Handed)
    bench.check_nothing_is_held()


def test_without_a_destination_one_worker_does_it_all() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT, alone=True)
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P] * 4)
    bench.check_nothing_is_held()


def test_a_full_decode_worker_leaves_the_sequence_with_prefill() -> None:
    bench = Bench(decode_blocks=8)
    occupied = bench.decode.pool.try_allocate(4)
    assert occupied is not None
    attempt_id = bench.submit("a", PROMPT)
    bench.run()
    (kept,) = bench.told(Kept)
    assert isinstance(kept, Kept)
    assert kept.cause == "full: no free blocks"
    assert bench.tokens(attempt_id) == expected(PROMPT, [P] * 4)
    bench.decode.pool.release(occupied)
    bench.check_nothing_is_held()


def test_many_requests_at_once_keep_their_own_tokens() -> None:
    bench = Bench(num_blocks=256)
    prompts = [[7 * i + j for j in range(3 * i + 1)] for i in range(20)]
    attempts = [bench.submit(f"r{i}", prompt, max_tokens=6) for i, prompt in enumerate(prompts)]
    bench.run()
    for attempt_id, prompt in zip(attempts, prompts, strict=True):
        assert bench.tokens(attempt_id) == expected(prompt, [P, D, D, D, D, D])
    bench.check_nothing_is_held()


def test_sequences_that_outgrow_the_pool_give_way_and_still_end_right() -> None:
    bench = Bench(num_blocks=64, decode_blocks=20)
    prompts = [[i, *PROMPT[:11]] for i in range(6)]
    attempts = [bench.submit(f"r{i}", prompt, max_tokens=30) for i, prompt in enumerate(prompts)]
    bench.run()
    assert bench.decode.engine.num_preemptions > 0
    for attempt_id, prompt in zip(attempts, prompts, strict=True):
        tokens = bench.tokens(attempt_id)
        assert len(tokens) == 30
        assert tokens == expected(prompt, [token % 4 for token in tokens])
    bench.check_nothing_is_held()


@pytest.mark.parametrize("num_turns", range(14))
def test_blocks_return_when_the_client_leaves_at_any_moment(num_turns: int) -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT, max_tokens=8)
    bench.run(num_turns)
    bench.cancel(attempt_id)
    bench.run()
    bench.check_nothing_is_held()


@pytest.mark.parametrize("num_turns", range(8))
def test_blocks_stay_while_a_stalled_write_may_still_land(num_turns: int) -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT, max_tokens=8)
    bench.run(num_turns)
    bench.fabric.stall()
    bench.run(5)
    bench.cancel(attempt_id)
    bench.run(5)
    writing = len(bench.prefill.loop.source_handoffs) > 0
    if writing:
        assert bench.prefill.pool.num_free < bench.prefill.pool.num_blocks
        assert bench.decode.pool.num_free < bench.decode.pool.num_blocks
    bench.fabric.resume()
    bench.run()
    bench.check_nothing_is_held()


def test_a_broken_link_leaves_the_sequence_with_prefill() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT)
    bench.fabric.kill(str(bench.decode.ref))
    bench.run()
    assert len(bench.told(Kept)) == 1
    assert bench.tokens(attempt_id) == expected(PROMPT, [P] * 4)
    bench.check_nothing_is_held()


def test_one_flipped_bit_is_caught_and_nothing_is_decoded_from_it() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT)
    bench.fabric.flip_bits = 1
    bench.run()
    (kept,) = bench.told(Kept)
    assert isinstance(kept, Kept)
    assert kept.cause.startswith("rejected: checksum")
    assert bench.tokens(attempt_id) == expected(PROMPT, [P] * 4)
    bench.check_nothing_is_held()


def test_a_stalled_transfer_is_given_up_at_its_deadline_and_nothing_is_lost() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT)
    bench.fabric.stall()
    bench.run(10)
    assert bench.tokens(attempt_id) == expected(PROMPT, [P])
    bench.now += 31.0
    bench.run(10)
    assert bench.tokens(attempt_id) == expected(PROMPT, [P] * 4)
    bench.fabric.resume()
    bench.run()
    bench.check_nothing_is_held()


def test_losing_the_decode_worker_mid_prefill_costs_nothing() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT)
    bench.turn()
    bench.break_link()
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P] * 4)
    bench.check_nothing_is_held()


def test_blocks_granted_to_a_lost_source_return_when_its_link_is_fenced() -> None:
    bench = Bench()
    bench.submit("a", PROMPT)
    bench.fabric.stall()
    bench.run(5)
    incoming, pool = bench.decode.loop.destination_handoffs, bench.decode.pool
    lost = incoming.source_lost(bench.link, "connection reset")
    assert pool.num_free < pool.num_blocks
    incoming.source_fenced(lost)
    assert pool.num_free == pool.num_blocks
    pool.check_integrity()


def test_a_draining_worker_refuses_new_attempts_and_ends_the_old_ones() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT)
    bench.run(4)
    idle: list[bool] = []
    bench.decode.loop.drain(lambda: idle.append(True))
    refused = bench.submit("b", PROMPT)
    bench.run()
    assert bench.tokens(attempt_id)[-1] is not None
    (kept,) = bench.told(Kept)
    assert isinstance(kept, Kept)
    assert (kept.attempt_id, kept.cause.partition(":")[0]) == (refused, "draining")
    assert idle == [True]
    bench.check_nothing_is_held()


def test_a_sequence_that_can_never_fit_fails_at_once_and_says_why() -> None:
    bench = Bench(num_blocks=4)
    bench.submit("a", PROMPT)
    bench.run()
    (failed,) = bench.told(Failed)
    assert isinstance(failed, Failed)
    assert not failed.retryable
    assert "21 prompt tokens and 4 new ones are more than the 16" in failed.cause


def test_a_lost_router_s_attempts_end() -> None:
    bench = Bench()
    bench.submit("a", PROMPT)
    bench.run(3)
    for station in bench.stations:
        station.loop.attempts.router_lost("router")
    bench.run()
    bench.check_nothing_is_held()


def test_a_kept_sequence_moves_later_with_all_that_it_has_computed() -> None:
    bench = Bench(decode_blocks=12)
    occupied = bench.decode.pool.try_allocate(9)
    assert occupied is not None
    attempt_id = bench.submit("a", PROMPT, max_tokens=12)
    bench.run(6)
    assert len(bench.told(Kept)) == 1
    made_here = len(bench.tokens(attempt_id))
    assert 0 < made_here < 12
    bench.decode.pool.release(occupied)
    bench.prefill.loop.attempts.move(attempt_id, bench.decode.address)
    bench.run()
    tokens = bench.tokens(attempt_id)
    stamps = [token % 4 for token in tokens]
    assert stamps == sorted(stamps)
    assert {P, D} == set(stamps)
    assert tokens == expected(PROMPT, stamps)
    assert bench.decode.engine.num_preemptions == 0
    bench.check_nothing_is_held()


def test_a_move_that_is_refused_changes_nothing() -> None:
    bench = Bench(decode_blocks=12)
    occupied = bench.decode.pool.try_allocate(9)
    assert occupied is not None
    attempt_id = bench.submit("a", PROMPT, max_tokens=12)
    bench.run(6)
    bench.prefill.loop.attempts.move(attempt_id, bench.decode.address)
    bench.run()
    assert len(bench.told(Kept)) == 2
    assert bench.tokens(attempt_id) == expected(PROMPT, [P] * 12)
    bench.decode.pool.release(occupied)
    bench.check_nothing_is_held()


def test_a_move_of_an_unknown_attempt_is_ignored() -> None:
    bench = Bench()
    bench.prefill.loop.attempts.move(AttemptId("nobody"), bench.decode.address)
    bench.run()
    bench.check_nothing_is_held()


def test_a_refused_sequence_is_offered_elsewhere_while_it_is_still_computed() -> None:
    bench = Bench(decode_blocks=12, chunk_tokens=4)
    occupied = bench.decode.pool.try_allocate(9)
    assert occupied is not None
    attempt_id = bench.submit("a", PROMPT, max_tokens=6)
    bench.run(3)
    assert len(bench.told(Kept)) == 1
    assert not bench.tokens(attempt_id)
    bench.decode.pool.release(occupied)
    bench.prefill.loop.attempts.move(attempt_id, bench.decode.address)
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P, D, D, D, D, D])
    bench.check_nothing_is_held()


def test_a_former_destination_s_late_grant_is_not_taken_for_the_present_one_s() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT)
    bench.prefill.loop.turn()
    ((_, offer),) = bench.prefill.outbox.for_peers
    former = WorkerRef("decode-before", 7)
    late = Grant(
        attempt_id=attempt_id,
        source=bench.prefill.ref,
        destination=former,
        first_missing_block=0,
        blocks=(40, 41, 42, 43, 44, 45),
        epoch=1,
        layout=bench.prefill.runner.layout,
    )
    bench.prefill.loop.receive(late, Peer(former, "former link"))
    answer = bench.prefill.outbox.for_peers.pop()
    assert answer == ("former link", Quiesced(**late.ends, epoch=None))
    assert isinstance(offer, Offer)
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P, D, D, D])
    bench.check_nothing_is_held()


def test_a_late_grant_of_an_earlier_offer_is_not_taken_for_the_present_one_s() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT, max_tokens=40)
    for _ in range(3):
        bench.prefill.loop.turn()
    (offer,) = [m for _, m in bench.prefill.outbox.for_peers if isinstance(m, Offer)]
    bench.prefill.outbox.for_peers.clear()
    bench.now += 31.0
    bench.prefill.loop.turn()
    bench.prefill.loop.attempts.move(attempt_id, bench.decode.address)
    late = Grant(
        **offer.ends,
        first_missing_block=0,
        blocks=tuple(range(6)),
        epoch=1,
        layout=bench.prefill.runner.layout,
    )
    bench.prefill.loop.receive(late, Peer(bench.decode.ref, bench.link))
    bench.prefill.carry()
    assert not any(rank.transfer_thread._writes.in_flight for rank in bench.prefill.ranks)
    (answer,) = [m for _, m in bench.prefill.outbox.for_peers if isinstance(m, Quiesced)][-1:]
    assert answer.ends == offer.ends
    bench.run()
    bench.check_nothing_is_held()


def test_an_attempt_that_is_granted_to_one_source_is_refused_to_another() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT)
    bench.prefill.loop.turn()
    ((_, offer),) = bench.prefill.outbox.for_peers
    bench.run(2)
    other = Peer(WorkerRef("prefill-other", 3), "other link")
    stranger = msgspec.structs.replace(offer, source=other.ref)
    bench.decode.loop.receive(stranger, other)
    _, refusal = bench.decode.outbox.for_peers.pop()
    assert isinstance(refusal, Refuse)
    assert refusal.reason is RefuseReason.STALE
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P, D, D, D])
    bench.check_nothing_is_held()
