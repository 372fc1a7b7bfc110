"""An engine that plans and launches a step while the one before is still being computed."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from engine.engine import Engine, SequenceProgress
from engine.runner import Collect, OnLayer, Outcome, Slice, drawn
from engine.sequence import Sequence, Status


class AsyncEngine(Engine):
    """At most one step is under way between two calls.

    Until it has landed, its sequences count as computed, with a token that only the runner knows.
    One that turns out to have ended takes part in one step too many: what that draws is dropped,
    and its blocks go back when that step is over, since other writers know nothing of streams.
    Who changes a sequence from outside settles first.
    """

    _flight: StepInFlight | None = None

    @property
    def under_way(self) -> bool:
        return self._flight is not None

    @property
    def may_go_ahead(self) -> bool:
        return self._flight is None or self._flight.may_be_followed

    @property
    def busy(self) -> bool:
        return self.under_way or super().busy

    def step(self) -> list[SequenceProgress]:
        progress = [] if self.may_go_ahead else self.settle()
        return progress + super().step()

    def settle(self) -> list[SequenceProgress]:
        return self._land(None)

    def run(self, slices: list[Slice], on_layer: OnLayer | None = None) -> list[SequenceProgress]:
        """Launch the slices as one batch; what is told is how far the step before has come."""
        launched = None
        if slices:
            launched = StepInFlight.of(slices, self.runner.launch(slices, on_layer))
        return self._land(launched)

    def hold(self, sequence: Sequence) -> None:
        assert not sequence.num_flights, f"{sequence.attempt_id}: a step of it is under way"
        super().hold(sequence)

    def _land(self, following: StepInFlight | None) -> list[SequenceProgress]:
        """The step under way is over, and `following` is the one that is under way now."""
        landing, self._flight = self._flight, following
        if landing is None:
            self.landed = []
            return []
        self.landed = list(landing.slices)
        progress = [self._advance(*result) for result in landing.land()]
        self.followers.follow()
        self.pool.release(landing.leftovers)
        return progress

    def _ready(self) -> Seq[Sequence]:
        if self._flight is None:
            return self.running
        return [sequence for sequence in self.running if not will_end(sequence)]

    def _release(self, sequence: Sequence) -> None:
        if sequence.num_flights:
            assert self._flight is not None
            self._flight.leftovers += sequence.blocks
            sequence.blocks = []
        super()._release(sequence)


@dataclass(slots=True)
class StepInFlight:
    """`collect` waits for the step's end."""

    slices: Seq[Slice]
    collect: Collect
    leftovers: list[int] = field(default_factory=list)
    """Blocks of sequences that ended before: the step still writes there."""

    @staticmethod
    def of(slices: Seq[Slice], collect: Collect) -> StepInFlight:
        """A step that has just been launched: planning goes on as if it were over."""
        for piece in slices:
            sequence = piece.sequence
            sequence.num_unknown += piece.num_sampled > 0
            sequence.num_computed = piece.start + piece.num_known
            sequence.num_flights += 1
        return StepInFlight(slices, collect)

    def land(self) -> Iterator[tuple[Slice, Outcome]]:
        """Wait, and tell the results of all sequences that have not ended in the meantime."""
        for piece, outcome in zip(self.slices, self.collect(), strict=True):
            sequence = piece.sequence
            sequence.num_flights -= 1
            sequence.num_unknown -= len(drawn(outcome)) > 0
            if sequence.status is not Status.FINISHED:
                yield piece, outcome

    @property
    def may_be_followed(self) -> bool:
        """False when this must be over before the next step is planned."""
        return not any(piece.drafts or must_be_known(piece.sequence) for piece in self.slices)


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
