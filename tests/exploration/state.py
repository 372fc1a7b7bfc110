"""One state of the explored world: hashable, small, and with everything that matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from kv_transfer.handoff.effects import Verify

Stage = Literal["waiting", "running", "held", "over"]
"""A source's sequence: not begun, in the engine's steps, kept out of them, without blocks."""

Outcome = Literal["open", "handed over", "kept", "failed", "cancelled", "crashed"]
"""The outcome of a source's sequence. It is wanted there while it is open or kept."""

Session = Literal["open", "ended", "told"]
"""A link's session at its source: alive, ended, and ended with its attempts told."""

ReceiveEnd = Literal["open", "lost", "evicted", "closed"]
"""A link's end at its destination. "lost": its session has ended there, and sent writes still
land. "evicted": only a process with direct access might still write. "closed": nothing does."""

WriteStatus = Literal["posted", "given up", "unsent", "late"]
"""A write: under way; given up, though it may still land, and its source is not told yet; never
sent; given up and told, though it may still land."""

FREE = 0
Part = Literal["whole", "first", "rest"]
"""The part of a block that is written: both of its layers, or one of them."""

PART = 16
MISSES_THE = {"rest": PART, "first": 2 * PART}
"""Added to a tag where memory holds all but that part of the block."""
GARBAGE = 63
NO_LINK = 0
"""The number of no link: what waits for one, and what had one that is gone."""


@dataclass(frozen=True)
class Scope:
    """A scope to explore: attempts of so many blocks, in these pools, under these faults."""

    name: str
    num_attempts: int
    num_blocks: int
    source_blocks: int
    destination_blocks: int
    max_faults: int
    """The most faults in one execution, of any kinds."""
    num_held: int = 0
    """Leading blocks of every attempt that the destination finds in its own cache."""
    num_destinations: int = 1
    """A sequence that was kept may be offered to the next of them; that counts as a fault."""
    in_order: bool = False
    """Whether messages arrive once and in order while their link lives, as those of sessions do."""
    by_layers: bool = False
    """Whether the last block may leave in two writes, a layer each."""
    direct_access: bool = False
    """Whether the source copies into a destination's memory itself: only its end stops that."""


class SourceAttempt(NamedTuple):
    """`machine` numbers its SourceHandoff; None before it exists and after it has closed."""

    stage: Stage = "waiting"
    outcome: Outcome = "open"
    machine: int | None = None
    blocks: tuple[int, ...] = ()
    num_computed: int = 0
    half_computed: bool = False
    """Whether one of two layers of the next block is computed."""
    link: int | None = None
    """The link over which the first answer to its offer came."""
    num_offers: int = 0
    """The number of destinations it has been offered to, in their order."""


class DestinationAttempt(NamedTuple):
    """`machine` numbers its DestinationHandoff; `running` are the blocks that are decoded from."""

    machine: int | None = None
    running: tuple[int, ...] = ()
    buried: bool = False
    link: int = NO_LINK
    """The link over which its offer came."""
    verify: Verify | None = None
    """The checksum that its machine waits for."""
    num_adoptions: int = 0
    """Adoptions over all incarnations of the destination."""


class Worker(NamedTuple):
    """Owners of blocks are FREE, or an attempt + 1 at the source and an epoch at a destination."""

    incarnation: int
    owners: tuple[int, ...]
    memory: tuple[int, ...]
    attempts: tuple[SourceAttempt, ...] | tuple[DestinationAttempt, ...]
    next_epoch: int = 1


class Link(NamedTuple):
    """One session between two lives of two workers, and the rank pair for blocks beside it.

    It exists until both ends have finished with it.
    """

    number: int
    source: int
    place: int
    destination: int
    session: Session = "open"
    carries: bool = True
    """False once the source's transfer thread has torn down its end."""
    receive_end: ReceiveEnd = "open"


class Letter(NamedTuple):
    """A message under way; one without a link waits at the source until there is one."""

    link: int
    to_source: bool
    message: int


class Flight(NamedTuple):
    """A write; it carries what its blocks held when it was posted."""

    attempt_id: int
    write_id: int
    link: int
    status: WriteStatus
    place: int
    destination: int
    epoch: int
    blocks: tuple[int, ...]
    remote_blocks: tuple[int, ...]
    tags: tuple[int, ...]
    first_remote_block: int
    part: Part


class State(NamedTuple):
    source: Worker
    destinations: tuple[Worker, ...]
    links: tuple[Link, ...]
    network: tuple[Letter, ...]
    """Sorted, unless they keep their order: any of them may come next."""
    flights: tuple[Flight, ...]
    num_faults_left: int


def first_state(scope: Scope) -> State:
    source_pool = (FREE,) * scope.source_blocks
    pool = (FREE,) * scope.destination_blocks
    destination = Worker(1, pool, pool, (DestinationAttempt(),) * scope.num_attempts)
    return State(
        source=Worker(1, source_pool, source_pool, (SourceAttempt(),) * scope.num_attempts),
        destinations=(destination,) * scope.num_destinations,
        links=(),
        network=(),
        flights=(),
        num_faults_left=scope.max_faults,
    )


def lands(scope: Scope, state: State, flight: Flight) -> bool:
    """Whether the write may still change a destination's memory."""
    if flight.destination != state.destinations[flight.place].incarnation:
        return False
    if flight.status == "posted" and scope.direct_access:
        return True
    if flight.status == "unsent":
        return False
    return any(
        it.number == flight.link and it.receive_end in ("open", "lost") for it in state.links
    )


def landed(content: int, tag: int, part: Part) -> int:
    """The content of a block that held `content`, once part of a block has been written to it."""
    if part == "whole" or content in (tag, tag + MISSES_THE[part]):
        return tag
    return tag + MISSES_THE["rest" if part == "first" else "first"]


def tag(attempt_id: int, block: int) -> int:
    """The content of memory in which this block of this attempt was computed or written."""
    return attempt_id * 8 + block + 1
