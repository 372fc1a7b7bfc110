"""A request that does not use the prefix cache: it finds nothing there, and leaves nothing."""

from __future__ import annotations

import pytest

from tests.engine.tiers import Tiered, answer, expected
from tests.worker.bench import DECODE_STAMP as D
from tests.worker.bench import PREFILL_STAMP as P
from tests.worker.bench import Bench
from tests.worker.bench import expected as expected_of_both
from wire.messages import Handed
from wire.traits import RequestTraits

pytestmark = pytest.mark.quick

PROMPT = list(range(5, 26))
UNCACHED = RequestTraits(cache_prompt=False)


def test_neither_whole_blocks_nor_parts_of_one_are_shared() -> None:
    tiered = Tiered(num_blocks=64, num_host_blocks=8)
    tiered.run("before", PROMPT)
    num_cached = tiered.pool.num_cached
    assert tiered.run("uncached", PROMPT, traits=UNCACHED).num_cached == 0
    assert tiered.run("short", PROMPT[:3], traits=UNCACHED).num_cached == 0
    assert tiered.pool.num_cached == num_cached
    assert tiered.run("after", PROMPT).num_cached == len(PROMPT) - 1


def test_others_do_not_share_the_blocks_of_one_that_runs() -> None:
    tiered = Tiered(num_blocks=64, num_host_blocks=8)
    tiered.add("uncached", PROMPT, 9, UNCACHED)
    tiered.step()
    beside = tiered.add("beside", PROMPT)
    tiered.finish()
    assert beside.num_cached == 0
    assert answer(beside) == expected(PROMPT, 4)


def test_preempted_it_comes_back_from_host_memory_or_is_computed_again() -> None:
    tiered = Tiered(num_blocks=8, num_host_blocks=16)
    sequences = [tiered.add(str(n), list(range(9)), 9, UNCACHED) for n in range(4)]
    tiered.finish()
    assert [answer(sequence) for sequence in sequences] == [expected(list(range(9)), 9)] * 4
    assert tiered.pool.num_cached == tiered.tier.pool.num_cached == 0


def test_a_handoff_moves_all_its_blocks_and_leaves_none_behind() -> None:
    bench = Bench()
    bench.submit("before", PROMPT)
    bench.run()
    cached = bench.prefill.pool.num_cached, bench.decode.pool.num_cached
    attempt_id = bench.submit("uncached", PROMPT, traits=UNCACHED)
    bench.run()
    assert bench.tokens(attempt_id) == expected_of_both(PROMPT, [P, D, D, D])
    moved = [message.moved for message in bench.told(Handed)]
    assert [each.skipped_blocks for each in moved] == [0, 0]
    assert (bench.prefill.pool.num_cached, bench.decode.pool.num_cached) == cached
    bench.check_nothing_is_held()
