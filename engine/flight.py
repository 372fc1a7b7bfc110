"""A step under way: launched, and not over. The next one may be launched behind it."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from engine.runner import Collect, Outcome, Slice, drawn
from engine.sequence import Sequence, Status


@dataclass(slots=True)
class Flight:
    """`collect` waits for the step's end."""

    slices: Seq[Slice]
    collect: Collect
    leftovers: list[int] = field(default_factory=list)
    """Blocks of sequences that ended before: the step still writes there."""

    @staticmethod
    def of(slices: Seq[Slice], collect: Collect) -> Flight:
        """A step that has just been launched: planning goes on as if it were over."""
        for piece in slices:
            sequence = piece.sequence
            sequence.num_unknown += piece.samples
            sequence.num_computed = piece.end
            sequence.num_flights += 1
        return Flight(slices, collect)

    def land(self) -> Iterator[tuple[Slice, Outcome]]:
        """Wait, and tell the results of all sequences that have not ended in the meantime."""
        for piece, outcome in zip(self.slices, self.collect(), strict=True):
            sequence = piece.sequence
            sequence.num_flights -= 1
            sequence.num_unknown -= drawn(outcome) is not None
            if sequence.status is not Status.FINISHED:
                yield piece, outcome

    @property
    def may_be_followed(self) -> bool:
        """False when this must be over before the next step is planned."""
        return not any(must_be_known(piece.sequence) for piece in self.slices)


def must_be_known(sequence: Sequence) -> bool:
    """True when the sequence's next step needs to know on the host what the one before drew."""
    sampling = sequence.sampling
    return (
        sequence.pinned  # blocks leave behind each step, and the first token goes with the last
        or sequence.grammar is not None
        or (sampling.rules is not None and bool(sampling.rules.banned))
        or sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )


def will_end(sequence: Sequence) -> bool:
    """True when the token that is under way is certainly the last."""
    known_soon = sequence.num_output + sequence.num_unknown
    return sequence.num_unknown > 0 and known_soon >= sequence.sampling.max_tokens
