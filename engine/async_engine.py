"""An engine that schedules and launches a step while the one before is still being computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from engine.engine import Engine, SequenceProgress
from engine.runner import Collect, OnLayer, Outcome, Slice, drawn
from engine.sequence import Sequence, Status
from kv_transfer.streams import Event


class AsyncEngine(Engine):
    """At most one step is in flight between two calls.

    Until its results are known, its sequences count as computed, each with a token that only the
    runner knows. A sequence that turns out to have ended takes part in one step too many: that
    step's draw is dropped, and the blocks are freed when the step is over, since a transport that
    wrote to them would not wait for the device. A caller that changes a sequence settles first.
    """

    _step: StepInFlight | None = None
    before_wait: Callable[[Event], None] | None = None
    """Called with the event of a step's end before that is waited for; may take until then."""

    @property
    def in_flight(self) -> bool:
        return self._step is not None

    @property
    def may_go_ahead(self) -> bool:
        return self._step is None or self._step.may_be_followed

    @property
    def busy(self) -> bool:
        return self.in_flight or super().busy

    def step(self) -> list[SequenceProgress]:
        progress = [] if self.may_go_ahead else self.settle()
        return progress + super().step()

    def settle(self) -> list[SequenceProgress]:
        return self._complete(None)

    def run(self, slices: list[Slice], on_layer: OnLayer | None = None) -> list[SequenceProgress]:
        """Launch the slices as one batch, and return the results of the step before."""
        launched = None
        if slices:
            collect = self.runner.launch(slices, on_layer)
            over = self.runner.mark() if on_layer is None else None  # else collecting looks itself
            launched = StepInFlight.of(slices, collect, over)
        return self._complete(launched)

    def hold(self, sequence: Sequence) -> None:
        assert not sequence.num_steps_in_flight, f"{sequence.attempt_id}: a step of it is in flight"
        super().hold(sequence)

    def _complete(self, following: StepInFlight | None) -> list[SequenceProgress]:
        """Wait for the step in flight, and return its results; `following` takes its place."""
        completed, self._step = self._step, following
        if completed is None:
            self.completed_slices = []
            return []
        if self.before_wait is not None and completed.over is not None:
            self.before_wait(completed.over)
        self.completed_slices = list(completed.slices)
        progress = [self._advance(*result) for result in completed.outcomes()]
        self.grammar_sequences.follow()
        self.pool.release(completed.freed_blocks)
        return progress

    def _ready(self) -> Seq[Sequence]:
        if self._step is None:
            return self.running
        return [sequence for sequence in self.running if not awaits_its_token(sequence)]

    def _release(self, sequence: Sequence) -> None:
        if sequence.num_steps_in_flight:
            assert self._step is not None
            self._step.freed_blocks += sequence.blocks
            sequence.blocks = []
        super()._release(sequence)


@dataclass(slots=True)
class StepInFlight:
    """A launched step; `collect` waits for its end."""

    slices: Seq[Slice]
    collect: Collect
    over: Event | None = None
    """The end of what was launched for it."""
    freed_blocks: list[int] = field(default_factory=list)
    """Blocks of sequences that ended meanwhile: the step still writes to them."""

    @staticmethod
    def of(slices: Seq[Slice], collect: Collect, over: Event | None = None) -> StepInFlight:
        """Mark a launched step's tokens as computed, so that the next one can be scheduled."""
        for slice in slices:
            sequence = slice.sequence
            sequence.num_unknown += slice.num_sampled > 0
            sequence.num_computed = slice.start + slice.num_known
            sequence.num_steps_in_flight += 1
        return StepInFlight(slices, collect, over)

    def outcomes(self) -> Iterator[tuple[Slice, Outcome]]:
        """Wait, and yield the outcomes of all sequences that have not ended in the meantime."""
        for slice, outcome in zip(self.slices, self.collect(), strict=True):
            sequence = slice.sequence
            sequence.num_steps_in_flight -= 1
            sequence.num_unknown -= len(drawn(outcome)) > 0
            if sequence.status is not Status.FINISHED:
                yield slice, outcome

    @property
    def may_be_followed(self) -> bool:
        """False when this step must be over before the next one is scheduled."""
        return not any(slice.drafts or must_be_known(slice.sequence) for slice in self.slices)


def must_be_known(sequence: Sequence) -> bool:
    """True when the sequence's next step needs its last token on the host."""
    sampling = sequence.sampling
    return (
        sequence.grammar is not None
        or (sampling.rules is not None and bool(sampling.rules.banned))
        or sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )


def awaits_its_token(sequence: Sequence) -> bool:
    """True when the token in flight is certainly the last, here at least: a sequence that is being
    handed over leaves with the first token of its answer. Its chunks before that do not wait."""
    known_soon = sequence.num_output + sequence.num_unknown
    ends = sequence.pinned or known_soon >= sequence.sampling.max_tokens
    return sequence.num_unknown > 0 and ends
