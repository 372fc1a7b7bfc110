"""An engine that plans and launches a step while the one before is still being computed."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from engine.engine import Engine, Progress
from engine.flight import Flight, will_end
from engine.runner import OnLayer, Slice
from engine.sequence import Sequence


class AheadEngine(Engine):
    """At most one step is under way between two calls.

    Until it has landed, its sequences count as computed, with a token that only the runner knows.
    One that turns out to have ended takes part in one step too many: what that draws is dropped,
    and its blocks go back when that step is over, since other writers know nothing of streams.
    Who changes a sequence from outside settles first.
    """

    _flight: Flight | None = None

    @property
    def under_way(self) -> bool:
        return self._flight is not None

    @property
    def may_go_ahead(self) -> bool:
        return self._flight is None or self._flight.may_be_followed

    @property
    def busy(self) -> bool:
        return self.under_way or super().busy

    def step(self) -> list[Progress]:
        progress = [] if self.may_go_ahead else self.settle()
        return progress + super().step()

    def settle(self) -> list[Progress]:
        return self._land(None)

    def run(self, slices: list[Slice], on_layer: OnLayer | None = None) -> list[Progress]:
        """Launch the slices as one batch; what is told is how far the step before has come."""
        launched = None
        if slices:
            launched = Flight.of(slices, self.runner.launch(slices, on_layer))
        return self._land(launched)

    def hold(self, sequence: Sequence) -> None:
        assert not sequence.num_flights, f"{sequence.leg}: a step of it is under way"
        super().hold(sequence)

    def _land(self, following: Flight | None) -> list[Progress]:
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
