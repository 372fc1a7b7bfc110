"""What a worker tells of what its steps take."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from engine.runner import Slice
from engine.schedule.step_times import StepWork
from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.reports import StepCosts
from wire.sampling import SamplingParams
from worker.steps.calibration import LEARN_EVERY_S, Calibration

pytestmark = pytest.mark.quick

TRUE = StepCosts(
    step_s=5e-3,
    sequence_s=1e-4,
    context_token_s=2e-7,
    prompt_token_s=4e-5,
    prompt_pair_s=3e-9,
)


def piece(start: int, count: int) -> Slice:
    sequence = Sequence(AttemptId("r"), [1], SamplingParams(max_tokens=1))
    return Slice(sequence, start, count)


def seconds(slices: list[Slice]) -> float:
    """By TRUE."""
    assert None not in (TRUE.step_s, TRUE.sequence_s)
    total = 5e-3
    for each in slices:
        if each.count == 1:
            total += 1e-4 + 2e-7 * each.start
        else:
            pairs = each.count * (2 * each.start + each.count) // 2
            total += 4e-5 * each.count + 3e-9 * pairs
    return total


def steps(*, prompts: bool, decodes: bool, count: int = 300) -> Iterator[list[Slice]]:
    draw = random.Random(3)
    for _ in range(count):
        slices = []
        if decodes:
            slices += [piece(draw.randrange(5000), 1) for _ in range(draw.randrange(1, 40))]
        if prompts and draw.random() < 0.5:
            slices.append(piece(draw.randrange(20_000), draw.randrange(16, 512)))
        if slices:
            yield slices


def learn(calibration: Calibration, **kinds: bool) -> None:
    for number, slices in enumerate(steps(**kinds)):
        calibration.observe(slices, seconds(slices), number * LEARN_EVERY_S)


def test_costs_are_those_that_the_steps_had() -> None:
    calibration = Calibration()
    assert calibration.costs is None
    learn(calibration, prompts=True, decodes=True)
    found = calibration.costs
    assert found is not None
    for name in StepCosts.__struct_fields__:
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.02)


@pytest.mark.parametrize("prompts", [True, False])
def test_nothing_is_told_of_work_that_was_not_seen(prompts: bool) -> None:
    calibration = Calibration()
    learn(calibration, prompts=prompts, decodes=not prompts)
    found = calibration.costs
    assert found is not None
    assert (found.prompt_token_s is not None) is prompts
    assert (found.sequence_s is not None) is not prompts


def test_steps_in_quick_succession_are_sampled() -> None:
    calibration = Calibration()
    for number, slices in enumerate(steps(prompts=True, decodes=True, count=1000)):
        calibration.observe(slices, 1.0, number * LEARN_EVERY_S / 1000)
    assert calibration.costs is None


def test_one_sequence_that_always_decodes_is_a_part_of_the_step() -> None:
    """Its cost shows when a second one decodes beside it; until then most of a step is fixed."""
    calibration = Calibration(learn_every_s=0.0)
    for number in range(40):
        calibration.learn(StepWork(num_decoding=1, context_tokens=2000), 6.1e-3, float(number))
    costs = calibration.costs
    assert costs is not None
    assert costs.sequence_s is not None
    assert costs.context_token_s is not None
    assert costs.sequence_s + 2000 * costs.context_token_s < 0.05 * 6.1e-3


def test_sequences_of_equal_contexts_cost_what_they_cost_together() -> None:
    calibration = Calibration(learn_every_s=0.0)
    for number in range(400):
        work = StepWork(num_decoding=1 + number % 5, context_tokens=2000 * (1 + number % 5))
        seconds = 6e-3 + 1.2e-4 * work.num_decoding
        calibration.learn(work, seconds + 1e-4 * (-1) ** (number // 5), float(number))
    costs = calibration.costs
    assert costs is not None
    assert costs.sequence_s is not None
    assert costs.context_token_s is not None
    assert costs.sequence_s + 2000 * costs.context_token_s == pytest.approx(1.2e-4, rel=0.2)
