"""What must not break a step loop: repetition, loss of routers and sources, crowding."""

from __future__ import annotations

import threading

import pytest

from decode_worker.scheduler import DecodePolicy
from engine.runners.arithmetic_runner import ArithmeticRunner
from kv_transfer.endpoints.transfer_thread import TransferThread
from kv_transfer.endpoints.write_path import InPlaceWrites, RankPath
from kv_transfer.transports.memory import MemoryFabric, MemoryTransport
from kv_transfer.transports.probe import Scratch
from tests.worker.bench import DECODE_STAMP as D
from tests.worker.bench import PREFILL_STAMP as P
from tests.worker.bench import Bench, expected, unmeasured
from wire.handoff import Quiesced
from wire.messages import Failed, Kept
from worker.steps.step_context import Peer

pytestmark = pytest.mark.quick

PROMPT = list(range(5, 26))


def test_what_a_lost_source_still_sends_never_lands_in_the_next_owner_s_blocks() -> None:
    bench = Bench()
    bench.submit("a", PROMPT)
    bench.fabric.stall()
    bench.run(5)
    bench.break_link()
    attempt_id = bench.submit("b", [9, 8, 7] * 7)
    bench.run(5)
    bench.fabric.resume()
    bench.run()
    assert bench.tokens(attempt_id) == expected([9, 8, 7] * 7, [P, D, D, D])
    bench.check_nothing_is_held()


def test_a_source_whose_writes_do_not_end_gets_its_blocks_back_with_another_link() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT, max_tokens=40)
    bench.fabric.stall()
    bench.run(5)
    bench.cancel(attempt_id)
    bench.run(5)
    assert bench.prefill.pool.num_free < bench.prefill.pool.num_blocks
    for _ in range(3):
        bench.now += 31.0
        bench.run(3)
    bench.check_nothing_is_held()
    assert bench.num_links == 2
    bench.fabric.resume()
    other = bench.submit("b", PROMPT)
    bench.run()
    assert bench.tokens(other) == expected(PROMPT, [P, D, D, D])


def test_a_message_that_comes_over_another_link_than_its_attempt_s_is_ignored() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT)
    bench.fabric.stall()
    bench.run(3)
    incoming = bench.decode.loop.destination_handoffs
    ends = incoming._attempts[attempt_id].offer.ends
    incoming.receive(Quiesced(**ends, epoch=None), Peer(bench.prefill.ref, "another link"))
    assert len(incoming) == 1
    bench.fabric.resume()
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P, D, D, D])


def test_a_repeated_submit_changes_nothing() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT, alone=True)
    bench.submit("a", PROMPT, alone=True)
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P] * 4)
    bench.check_nothing_is_held()


def test_a_submit_repeated_during_the_handoff_changes_nothing() -> None:
    bench = Bench()
    attempt_id = bench.submit("a", PROMPT)
    bench.run(2)
    bench.submit("a", PROMPT)
    bench.run()
    assert bench.tokens(attempt_id) == expected(PROMPT, [P, D, D, D])
    bench.check_nothing_is_held()


def test_a_submit_without_tokens_fails_its_attempt_and_not_the_worker() -> None:
    bench = Bench()
    bench.submit("a", [], alone=True)
    attempt_id = bench.submit("b", PROMPT, alone=True)
    bench.run()
    assert len(bench.told(Failed)) == 1
    assert bench.tokens(attempt_id) == expected(PROMPT, [P] * 4)


def test_a_sequence_that_could_not_end_at_the_destination_stays_at_the_source() -> None:
    bench = Bench(decode_blocks=8)  # 32 tokens
    attempt_id = bench.submit("a", PROMPT, max_tokens=30)
    bench.run()
    (kept,) = bench.told(Kept)
    assert isinstance(kept, Kept)
    assert kept.cause == "too long: up to 51 tokens, here 32 fit"
    assert bench.tokens(attempt_id) == expected(PROMPT, [P] * 30)


def test_a_preempted_sequence_runs_again_although_new_ones_keep_coming() -> None:
    bench = Bench(num_blocks=400, decode_blocks=24)
    for i in range(3):
        bench.submit(f"r{i}", [i, *PROMPT[:11]], max_tokens=60)
    waits_since: dict[str, int] = {}
    longest = 0
    for turn in range(800):
        bench.submit(f"s{turn}", [turn % 997, 3, 5, 7], max_tokens=12)
        bench.turn()
        waiting = {s.attempt_id.request_id for s in bench.decode.engine.waiting}
        waits_since = {name: waits_since.get(name, turn) for name in waiting}
        longest = max([longest, *(turn - since for since in waits_since.values())])
    assert bench.decode.engine.num_preemptions > 0
    assert longest < 200


def test_granted_attempts_count_as_places() -> None:
    bench = Bench(num_blocks=256)
    bench.decode.engine.policy = DecodePolicy(max_sequences=2)
    for i in range(8):
        bench.submit(f"r{i}", [i, 2, 3], max_tokens=20)
    most = 0
    for _ in range(200):
        bench.turn()
        most = max(most, len(bench.decode.engine.running))
    assert most == 2


@pytest.mark.parametrize("num_turns", range(8))
def test_an_attempt_granted_for_a_lost_router_is_not_decoded_for_nobody(num_turns: int) -> None:
    bench = Bench()
    bench.submit("a", PROMPT, max_tokens=40)
    bench.run(num_turns)
    bench.decode.loop.attempts.router_lost("router")
    bench.run(2)
    bench.prefill.loop.attempts.router_lost("router")
    bench.run(4)
    assert not bench.decode.engine.running
    bench.run()
    bench.check_nothing_is_held()


def test_an_overdue_attempt_ends_although_its_router_says_nothing() -> None:
    bench = Bench()
    bench.submit("a", PROMPT, max_tokens=40, deadline_s=5.0)
    bench.run(3)
    bench.now += 6.0
    bench.run()
    assert [type(message) for message in bench.told(Failed)] == [Failed]
    bench.check_nothing_is_held()


def test_a_broken_transfer_thread_is_a_crash_and_not_a_silence() -> None:
    class Broken(MemoryTransport):
        """Fails in a way that no transport may."""

        def connect(self, peer: str, admission: bytes) -> None:
            raise IndexError("out of range")

    crashed = threading.Event()
    broken = Broken("broken", MemoryFabric())
    transfer_thread = TransferThread(broken, lambda link, cause: None, lambda error: crashed.set())
    transfer_thread.start()
    write_path = InPlaceWrites(ArithmeticRunner().layout, lambda blocks, first: 0, 1)
    scratch = Scratch(0, 0, 1)
    path = RankPath("link", b"", write_path, lambda it: unmeasured(it, "link", scratch))
    transfer_thread.connect("link", [path], lambda found: None)
    assert crashed.wait(60)
    transfer_thread.stop()
