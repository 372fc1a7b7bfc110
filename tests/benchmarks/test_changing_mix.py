"""The benchmark's traffic, and a run of it on two workers."""

from __future__ import annotations

import pytest

from benchmarks.changing_mix.run import mix, serve
from benchmarks.changing_mix.traffic import NUM_SHARED_BLOCKS, PHASES
from sim.traces import BLOCK_TOKENS


@pytest.mark.quick
def test_phases_have_their_lengths_and_rates() -> None:
    for phase, prompt, answer in zip(PHASES[:2], (4096, 256), (64, 512), strict=True):
        arrivals = phase.arrivals(per_s=100.0, phase_s=20.0, seed=1)
        assert len(arrivals) == pytest.approx(2000, rel=0.1)
        assert _mean([each.num_prompt for each in arrivals]) == pytest.approx(prompt, rel=0.05)
        assert _mean([each.num_new for each in arrivals]) == pytest.approx(answer, rel=0.05)


@pytest.mark.quick
def test_turns_of_a_conversation_begin_with_the_turns_before_them() -> None:
    arrivals = PHASES[2].arrivals(per_s=50.0, phase_s=20.0, seed=1)
    shared = arrivals[0].blocks[:NUM_SHARED_BLOCKS]
    seen, num_further = set[tuple[int, ...]](), 0
    for each in arrivals:
        assert each.blocks[:NUM_SHARED_BLOCKS] == shared
        assert len(each.blocks) == -(-each.num_prompt // BLOCK_TOKENS)
        num_further += any(each.blocks[:length] in seen for length in range(3, len(each.blocks)))
        num_further += each.blocks in seen
        seen.add(each.blocks)
    assert num_further > 0.5 * len(arrivals)


def test_a_run_through_all_phases_loses_no_request() -> None:
    load = mix((4.0, 8.0, 8.0), phase_s=3.0, seed=1)
    outcome = serve("follow:1", 2, 0.012, load, phase_s=3.0)
    assert outcome.num_lost == 0
    assert len(outcome.by_phase) == len(PHASES)
    assert outcome.goodput > 0.5


def _mean(values: list[int]) -> float:
    return sum(values) / len(values)
