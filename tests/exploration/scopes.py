"""The scopes that are explored: small ones in the suite, all by `python -m tests.exploration`."""

from __future__ import annotations

from dataclasses import replace

from tests.exploration.state import Scope

ONE_ATTEMPT = Scope(
    "one attempt of 2 blocks, pools of 2, up to 2 faults",
    num_attempts=1,
    num_blocks=2,
    source_blocks=2,
    destination_blocks=2,
    max_faults=2,
)
HELD_PREFIX = replace(
    ONE_ATTEMPT,
    name="one attempt, 1 block cached at the destination, up to 2 faults",
    num_held=1,
)
DIRECT_ACCESS = replace(
    ONE_ATTEMPT,
    name="the same with a source that copies by itself, up to 2 faults",
    direct_access=True,
)
TWO_DESTINATIONS = replace(
    ONE_ATTEMPT,
    name="one attempt, 2 blocks, kept and moved to another destination, sessions in order, 1 fault",
    num_destinations=2,
    in_order=True,
    max_faults=1,
)
BY_LAYERS = replace(
    ONE_ATTEMPT,
    name="one attempt of 2 blocks, the last of which may leave in two layers, up to 2 faults",
    by_layers=True,
)
ONE_BLOCK = Scope(
    "two attempts of 1 block, pools of 1, no faults",
    num_attempts=2,
    num_blocks=1,
    source_blocks=1,
    destination_blocks=1,
    max_faults=0,
)
ONE_LINK = Scope(
    "two attempts of 1 block over one link, pools of 2, sessions in order, 1 fault",
    num_attempts=2,
    num_blocks=1,
    source_blocks=2,
    destination_blocks=2,
    max_faults=1,
    in_order=True,
)
QUICK = (
    replace(ONE_ATTEMPT, name="one attempt of 2 blocks, pools of 2, 1 fault", max_faults=1),
    replace(HELD_PREFIX, name="the same with 1 block cached at the destination", max_faults=1),
    replace(DIRECT_ACCESS, name="the same with a source that copies by itself", max_faults=1),
    replace(BY_LAYERS, name="the same, the last block in two layers", max_faults=1),
    replace(ONE_BLOCK, name="two attempts of 1 block, pools of 1", in_order=True),
)

COMPLETE = (
    replace(ONE_ATTEMPT, name="one attempt of 2 blocks, pools of 2, up to 3 faults", max_faults=3),
    HELD_PREFIX,
    DIRECT_ACCESS,
    BY_LAYERS,
    TWO_DESTINATIONS,
    ONE_BLOCK,
    ONE_LINK,
)
