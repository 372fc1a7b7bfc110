"""Steps of a model that is played take what their work costs."""

from __future__ import annotations

import pytest

from engine.runners.played_costs import PlayedCosts

COSTS = PlayedCosts(step_s=0.01, sequence_s=0.001, prompt_token_s=0.002)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("counts", "seconds"),
    [
        pytest.param([1], 0.011, id="one sequence decodes"),
        pytest.param([1, 1, 1], 0.013, id="three decode"),
        pytest.param([10], 0.03, id="a prompt"),
        pytest.param([1, 10, 5], 0.041, id="prompts beside a decoding sequence"),
    ],
)
def test_a_step_takes_what_its_work_costs(counts: list[int], seconds: float) -> None:
    assert COSTS.seconds(counts) == pytest.approx(seconds)
