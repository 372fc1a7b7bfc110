"""What must not break a step loop: repetition, loss of routers and sources, crowding."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NoReturn

import pytest

from decode_worker.scheduler import DecodePolicy
from kv_transfer.courier import Courier
from kv_transfer.probe import LinkSpeed
from kv_transfer.region import CacheRegion
from tests.worker.bench import DECODE_STAMP as D
from tests.worker.bench import PREFILL_STAMP as P
from tests.worker.bench import Bench, expected
from wire.messages import Failed, Kept

PROMPT = list(range(5, 26))


def test_an_old_failed_call_does_not_fence_a_source_that_has_been_heard_since() -> None:
    bench = Bench()
    incoming, pool = bench.decode.loop.incoming, bench.decode.pool
    bench.submit("a", PROMPT)
    bench.turn()
    incoming.source_unreachable(bench.prefill.ref, now=0.0)
    bench.run()
    bench.submit("b", [9, 8, 7] * 7)
    bench.fabric.stall()
    bench.run(5)
    used = pool.num_blocks - pool.num_free
    assert used == 6
    incoming.source_lost(bench.prefill.ref, "connection reset")
    incoming.source_unreachable(bench.prefill.ref, now=1000.0)
    assert pool.num_free == pool.num_blocks - used
    incoming.source_unreachable(bench.prefill.ref, now=1003.0)
    assert pool.num_free == pool.num_blocks


def test_a_repeated_submit_changes_nothing() -> None:
    bench = Bench()
    leg = bench.submit("a", PROMPT, alone=True)
    bench.submit("a", PROMPT, alone=True)
    bench.run()
    assert bench.tokens(leg) == expected(PROMPT, [P] * 4)
    bench.check_nothing_is_held()


def test_a_submit_repeated_during_the_handoff_changes_nothing() -> None:
    bench = Bench()
    leg = bench.submit("a", PROMPT)
    bench.run(2)
    bench.submit("a", PROMPT)
    bench.run()
    assert bench.tokens(leg) == expected(PROMPT, [P, D, D, D])
    bench.check_nothing_is_held()


def test_a_submit_without_tokens_fails_its_leg_and_not_the_worker() -> None:
    bench = Bench()
    bench.submit("a", [], alone=True)
    leg = bench.submit("b", PROMPT, alone=True)
    bench.run()
    assert len(bench.told(Failed)) == 1
    assert bench.tokens(leg) == expected(PROMPT, [P] * 4)


def test_a_sequence_that_could_not_end_at_the_destination_stays_at_the_source() -> None:
    bench = Bench(decode_blocks=8)  # 32 tokens
    leg = bench.submit("a", PROMPT, max_tokens=30)
    bench.run()
    (kept,) = bench.told(Kept)
    assert isinstance(kept, Kept)
    assert kept.cause == "too long: up to 51 tokens, here 32 fit"
    assert bench.tokens(leg) == expected(PROMPT, [P] * 30)


def test_a_preempted_sequence_runs_again_although_new_ones_keep_coming() -> None:
    bench = Bench(num_blocks=400, decode_blocks=24)
    for i in range(3):
        bench.submit(f"r{i}", [i, *PROMPT[:11]], max_tokens=60)
    waits_since: dict[str, int] = {}
    longest = 0
    for turn in range(800):
        bench.submit(f"s{turn}", [turn % 997, 3, 5, 7], max_tokens=12)
        bench.turn()
        waiting = {s.leg.request_id for s in bench.decode.engine.waiting}
        waits_since = {name: waits_since.get(name, turn) for name in waiting}
        longest = max([longest, *(turn - since for since in waits_since.values())])
    assert bench.decode.engine.num_preemptions > 0
    assert longest < 200


def test_granted_legs_count_as_places() -> None:
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
def test_a_leg_granted_for_a_lost_router_is_not_decoded_for_nobody(num_turns: int) -> None:
    bench = Bench()
    bench.submit("a", PROMPT, max_tokens=40)
    bench.run(num_turns)
    bench.decode.loop.router_lost("router")
    bench.run(2)
    bench.prefill.loop.router_lost("router")
    bench.run(4)
    assert not bench.decode.engine.running
    bench.run()
    bench.check_nothing_is_held()


def test_an_overdue_leg_ends_although_its_router_says_nothing() -> None:
    bench = Bench()
    bench.submit("a", PROMPT, max_tokens=40, deadline_s=5.0)
    bench.run(3)
    bench.now += 6.0
    bench.run()
    assert [type(message) for message in bench.told(Failed)] == [Failed]
    bench.check_nothing_is_held()


class BrokenTransport:
    """Fails in a way that no transport may."""

    name = "broken"

    def register(self, region: CacheRegion, num_blocks: int) -> None: ...

    def metadata(self) -> bytes:
        return b""

    def connect(self, peer: str, metadata: bytes) -> NoReturn:
        raise IndexError("out of range")

    def write(self, peer: str, blocks: Sequence[int], pages: Sequence[int]) -> NoReturn:
        raise IndexError("out of range")

    def disconnect(self, peer: str) -> None: ...

    def close(self) -> None: ...


def test_a_broken_courier_is_a_crash_and_not_a_silence() -> None:
    crashed = threading.Event()
    courier = Courier(BrokenTransport(), lambda error: crashed.set())
    courier.start()
    courier.connect("peer", b"", lambda transport: LinkSpeed(0, 0), lambda found: None)
    assert crashed.wait(10)
    courier.stop()
