"""What one state of the explored world is: hashable, small, and with everything that matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Stage = Literal["waiting", "running", "held", "over"]
"""A source's sequence: not begun, in the engine's steps, kept out of them, without blocks."""

Outcome = Literal["open", "handed over", "kept", "failed", "cancelled", "crashed"]
"""What became of a source's sequence. It is wanted there while it is open or kept."""

FREE = 0
GARBAGE = 63


@dataclass(frozen=True)
class Scope:
    """What is explored: how many legs of how many blocks, in which pools, under which faults."""

    name: str
    num_legs: int
    num_blocks: int
    source_blocks: int
    destination_blocks: int
    max_faults: int
    """At most so many in one execution, of any kinds."""
    num_held: int = 0
    """Leading blocks of every leg that the destination finds in its own cache."""


class SourceLeg(NamedTuple):
    """`machine` numbers its SourceHandoff; None before it exists and after it has closed."""

    stage: Stage = "waiting"
    outcome: Outcome = "open"
    machine: int | None = None
    blocks: tuple[int, ...] = ()
    num_computed: int = 0


class DestinationLeg(NamedTuple):
    """`machine` numbers its DestinationHandoff; `running` are the blocks that are decoded from."""

    machine: int | None = None
    running: tuple[int, ...] = ()
    buried: bool = False
    num_adoptions: int = 0
    """Over all incarnations of the destination."""


class Flight(NamedTuple):
    """A posted write; until it is reported or torn down it may land at any moment."""

    leg: int
    write_id: int
    source: int
    destination: int
    epoch: int
    blocks: tuple[int, ...]
    pages: tuple[int, ...]
    tags: tuple[int, ...]


class State(NamedTuple):
    """Owners are FREE, or a leg + 1 at the source and an epoch at the destination."""

    sources: tuple[SourceLeg, ...]
    source_incarnation: int
    source_owners: tuple[int, ...]
    source_memory: tuple[int, ...]
    destinations: tuple[DestinationLeg, ...]
    destination_incarnation: int
    destination_owners: tuple[int, ...]
    destination_memory: tuple[int, ...]
    next_epoch: int
    network: tuple[int, ...]
    """Numbers of messages under way, sorted: any of them may come next."""
    flights: tuple[Flight, ...]
    num_faults_left: int


def first_state(scope: Scope) -> State:
    return State(
        sources=(SourceLeg(),) * scope.num_legs,
        source_incarnation=1,
        source_owners=(FREE,) * scope.source_blocks,
        source_memory=(FREE,) * scope.source_blocks,
        destinations=(DestinationLeg(),) * scope.num_legs,
        destination_incarnation=1,
        destination_owners=(FREE,) * scope.destination_blocks,
        destination_memory=(FREE,) * scope.destination_blocks,
        next_epoch=1,
        network=(),
        flights=(),
        num_faults_left=scope.max_faults,
    )


def tag(leg: int, block: int) -> int:
    """What memory holds where this block of this leg has been computed or written."""
    return leg * 8 + block + 1
