"""What is learned from the durations of steps, and how many prompt tokens it lets ride along."""

import random

import pytest

from decode_worker.scheduler import DecodePolicy
from engine.runner import Slice
from engine.schedule.chunk_budget import MIN_CHUNK_TOKENS, ChunkBudget
from engine.schedule.step_times import StepTimes, StepWork
from engine.sequence import Sequence
from tests.engine.driver import make_sequence
from wire.sampling import SamplingParams

pytestmark = pytest.mark.quick


def seconds(work: StepWork) -> float:
    """A machine whose steps take 5 ms, 1 ms a sequence, 0.2 ms a prompt token, and for contexts."""
    return (
        5e-3
        + 1e-3 * work.num_decoding
        + 1e-6 * work.context_tokens
        + 2e-4 * work.prompt_tokens
        + 1e-8 * work.prompt_pairs
    )


def some_work(draw: random.Random) -> StepWork:
    decoding = draw.randrange(20)
    prompt = draw.choice([0, 0, 16, 128, 500])
    return StepWork(
        decoding, decoding * draw.randrange(2000), prompt, prompt * draw.randrange(2000)
    )


def decoding(num_computed: int) -> Sequence:
    sequence = Sequence(
        make_sequence([1]).attempt_id, [7] * num_computed, SamplingParams(max_tokens=99)
    )
    sequence.num_computed = num_computed
    sequence.tokens.append(8)
    return sequence


def test_predictions_are_right_once_some_steps_were_seen() -> None:
    draw, times = random.Random(1), StepTimes()
    for _ in range(60):
        work = some_work(draw)
        times.observe(work, seconds(work) * draw.uniform(0.98, 1.02))
    for work in (some_work(draw) for _ in range(20)):
        assert times.predict(work) == pytest.approx(seconds(work), rel=0.15)


def test_a_machine_that_becomes_slower_is_noticed() -> None:
    draw, times = random.Random(2), StepTimes()
    for slowness in (1.0, 3.0):
        for _ in range(1500):
            work = some_work(draw)
            times.observe(work, slowness * seconds(work))
    work = some_work(draw)
    assert times.predict(work) == pytest.approx(3 * seconds(work), rel=0.05)


def test_long_silence_about_prompts_does_not_unlearn_them() -> None:
    draw, times = random.Random(3), StepTimes()
    for _ in range(100):
        work = some_work(draw)
        times.observe(work, seconds(work))
    for _ in range(20_000):
        work = StepWork(draw.randrange(1, 20), draw.randrange(20_000))
        times.observe(work, seconds(work))
    work = StepWork(4, 4000, 200, 100_000)
    assert times.predict(work) == pytest.approx(seconds(work), rel=0.05)


def test_hours_of_light_load_leave_what_a_full_step_takes_known() -> None:
    """One sequence at a time says nothing of what each costs: noise must not fill its place."""
    draw, times = random.Random(5), StepTimes()
    for _ in range(500):
        work = some_work(draw)
        times.observe(work, seconds(work) * draw.uniform(0.95, 1.05))
    for number in range(10_000):
        chunk = number % 100
        prompt = StepWork(0, 0, 512, 512 * (512 * chunk + 256))
        work = prompt if chunk < 10 else StepWork(1, 6000 + chunk)
        times.observe(work, seconds(work) * draw.uniform(0.95, 1.05))
    for full in (StepWork(20, 60_000), StepWork(20, 60_000, 500, 1_000_000)):
        assert times.predict(full) == pytest.approx(seconds(full), rel=0.1)


def test_work_is_counted_by_kind() -> None:
    prompt = make_sequence(list(range(1, 31)))
    slices = [Slice(decoding(50), 50, 1), Slice(decoding(9), 9, 1), Slice(prompt, 10, 20)]
    assert StepWork.of(slices) == StepWork(2, 59, 20, 20 * 20)


@pytest.mark.parametrize("target_s", [0.02, 0.04, 0.08])
def test_steps_with_prompts_end_within_the_target(target_s: float) -> None:
    draw, pace = random.Random(4), ChunkBudget(target_s, at_first=128, most=512)
    for _ in range(60):
        work = some_work(draw)
        pace.times.observe(work, seconds(work))
    streams, prompt = [decoding(100) for _ in range(4)], make_sequence([3] * 1000)
    prompt.num_computed = 300
    count = pace.prompt_tokens(streams, prompt)
    took = seconds(StepWork(4, 400, count, count * (300 + count // 2)))
    assert took <= target_s * 1.05
    assert took >= target_s * 0.8


def test_a_prompt_advances_even_where_steps_are_too_long_without_it() -> None:
    draw, pace = random.Random(5), ChunkBudget(1e-4, at_first=128, most=512)
    for _ in range(60):
        work = some_work(draw)
        pace.times.observe(work, seconds(work))
    assert pace.prompt_tokens([decoding(9)], make_sequence([3] * 50)) == MIN_CHUNK_TOKENS


def test_without_a_target_or_experience_the_number_is_fixed() -> None:
    assert ChunkBudget(None, 128, 512).prompt_tokens([decoding(9)], make_sequence([3] * 50)) == 128
    assert ChunkBudget(0.05, 128, 512).prompt_tokens([decoding(9)], make_sequence([3] * 50)) == 128


def test_a_policy_learns_what_its_steps_cost() -> None:
    policy = DecodePolicy(tpot_target_s=0.02)
    stream, prompt = decoding(20), make_sequence([3] * 4000)
    for chunk in (16, 64, 128, 200, 300, 64, 16) * 3:
        slices = [Slice(stream, 20, 1), Slice(prompt, prompt.num_computed, chunk)]
        policy.observe(slices, seconds(StepWork.of(slices)))
        prompt.num_computed += chunk
        policy.observe(slices[:1], seconds(StepWork.of(slices[:1])))
    shares = policy.plan([stream, prompt])
    assert [share.sequence for share in shares] == [stream, prompt]
    assert 40 <= shares[1].count <= 75
