"""What is said while weights are loaded."""

from __future__ import annotations

import pytest

from worker.progress import LARGE_BYTES, Quarters

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("total", "expected"), [(LARGE_BYTES, [25, 50, 75, 100]), (8_000_000, [100])]
)
def test_large_weights_have_a_line_for_each_quarter_and_small_ones_for_the_end(
    total: int, expected: list[int]
) -> None:
    told: list[str] = []
    quarters = Quarters(told.append)
    for tenth in range(11):
        quarters.loaded(tenth * total // 10, total)
    size = f"{total / 1e6:.1f}"
    assert told == [f"weights {percent} % of {size} MB loaded" for percent in expected]


def test_weights_of_no_size_say_nothing() -> None:
    Quarters(lambda line: pytest.fail(line)).loaded(0, 0)
