"""What is explored: quickly in the suite, completely by `python -m tests.exploration`."""

from __future__ import annotations

from dataclasses import replace

from tests.exploration.state import Scope

ONE_LEG = Scope(
    "one leg of 2 blocks, pools of 2, up to 2 faults",
    num_legs=1,
    num_blocks=2,
    source_blocks=2,
    destination_blocks=2,
    max_faults=2,
)
HELD_PREFIX = replace(
    ONE_LEG, name="the same with 1 block cached at the destination, up to 2 faults", num_held=1
)
ONE_PAGE = Scope(
    "two legs of 1 block, pools of 1, no faults",
    num_legs=2,
    num_blocks=1,
    source_blocks=1,
    destination_blocks=1,
    max_faults=0,
)
QUICK = (ONE_LEG, HELD_PREFIX, ONE_PAGE)

COMPLETE = (
    replace(ONE_LEG, name="one leg of 2 blocks, pools of 2, up to 4 faults", max_faults=4),
    replace(
        HELD_PREFIX,
        name="the same with 1 block cached at the destination, up to 3 faults",
        max_faults=3,
    ),
    Scope(
        "two legs of 2 blocks, pools of 4 and 2, no faults",
        num_legs=2,
        num_blocks=2,
        source_blocks=4,
        destination_blocks=2,
        max_faults=0,
    ),
    Scope(
        "two legs of 1 block, pools of 2 and 1, 1 fault",
        num_legs=2,
        num_blocks=1,
        source_blocks=2,
        destination_blocks=1,
        max_faults=1,
    ),
)
