"""How a sequence's blocks leave: layer by layer where that pays, and the most urgent ones first."""

from __future__ import annotations

from collections.abc import Callable

from kv_transfer.endpoints.write_path import Written
from kv_transfer.handoff.effects import Effect, Write
from wire.layout import KvLayout
from worker.steps.attempt_state import AttemptState
from worker.steps.step_context import StepContext

NOMINAL_RATE = 2e9
"""Bytes per second, by which flows over one link are weighed against each other."""

LAYERS_BYTES = 1 << 18
"""Layers that leave before others are at least so many bytes: every write has its fixed cost."""


def layers_per_write(layout: KvLayout, num_tokens: int) -> int:
    """How many layers of a chunk are worth a write of their own."""
    return max(1, -(-LAYERS_BYTES // (layout.num_blocks(num_tokens) * layout.layer_bytes)))


class BlockSender:
    """Turns the source machine's writes into jobs of the endpoint, most urgent first."""

    def __init__(self, context: StepContext) -> None:
        self._layout = context.engine.runner.layout
        """Of this rank's blocks."""
        self._endpoint = context.endpoint
        self._call = context.call
        self._clock = context.clock

    def post(
        self,
        attempt: AttemptState,
        write: Write,
        perform: Callable[[AttemptState, list[Effect]], None],
    ) -> None:
        """Start a copy; what its end leads to goes to `perform`, in the loop's thread."""
        handoff = attempt.handoff
        assert handoff is not None
        assert attempt.link is not None

        def ended(written: Written) -> None:
            if written.cause is None:
                times = written.started, written.ended
                effects = handoff.wrote(write.write_id, *times, written.checksum)
            else:
                effects = handoff.write_failed(write.write_id, written.cause)
            perform(attempt, effects)

        def on_done(written: Written) -> None:
            self._call(lambda: ended(written))

        self._endpoint.write(attempt.link, write.block_write, on_done, self._latest_start(attempt))

    def _latest_start(self, attempt: AttemptState) -> float:
        """When a write must start for the rest to have arrived as soon as prefill has ended."""
        sequence, now = attempt.sequence, self._clock()
        num_done = sequence.num_computed - sequence.num_cached
        if attempt.started_at is None or num_done <= 0:
            return now
        s_per_token = (now - attempt.started_at) / num_done
        left_s = sequence.num_uncomputed * self._layout.token_bytes / NOMINAL_RATE
        return now + sequence.num_uncomputed * s_per_token - left_s
