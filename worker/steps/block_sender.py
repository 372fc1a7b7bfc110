"""Sends a sequence's blocks: layer by layer where that pays, the most urgent write first."""

from __future__ import annotations

from collections.abc import Callable

from kv_transfer.endpoints.write_path import Written
from kv_transfer.handoff.effects import Effect, Write
from kv_transfer.handoff.source import SourceState
from wire.layout import KvLayout
from worker.steps.attempt_state import AttemptState
from worker.steps.step_context import StepContext

NOMINAL_RATE = 2e9
"""Bytes per second that are assumed for a link when the urgency of its writes is compared."""

MIN_WRITE_BYTES = 1 << 18
"""Layers are sent ahead in writes of at least this size: every write has a fixed cost."""


def layers_per_write(layout: KvLayout, num_tokens: int) -> int:
    """How many layers of a chunk of `num_tokens` tokens make a write of MIN_WRITE_BYTES."""
    return max(1, -(-MIN_WRITE_BYTES // (layout.num_blocks(num_tokens) * layout.layer_bytes)))


class BlockSender:
    """Turns the source machine's writes into jobs of the endpoint, most urgent first."""

    def __init__(self, context: StepContext) -> None:
        self._layout = context.engine.runner.layout
        """Of this rank's blocks."""
        self._endpoint = context.endpoint
        self._calls = context.calls
        self._clock = context.clock

    def post(
        self,
        attempt: AttemptState,
        write: Write,
        perform: Callable[[AttemptState, list[Effect]], None],
    ) -> None:
        """Queue a write. In the step loop's thread, the handoff is told when it has ended, and the
        effects go to `perform`."""
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

        def within_step(written: Written) -> None:
            """The last write's end is followed by a commit, which does not wait for a step of
            others. What may change the engine waits until the step is over."""
            if written.cause is None and handoff.state is SourceState.WRITING:
                ended(written)
            else:
                self._calls.put(lambda: ended(written))

        def on_done(written: Written) -> None:
            self._calls.put_prompt(lambda: within_step(written))

        self._endpoint.write(attempt.link, write.block_write, on_done, self._latest_start(attempt))

    def _latest_start(self, attempt: AttemptState) -> float:
        """The latest time at which a write may start if all blocks are to arrive with the end of
        prefill."""
        sequence, now = attempt.sequence, self._clock()
        num_done = sequence.num_computed - sequence.num_cached
        if attempt.started_at is None or num_done <= 0:
            return now
        s_per_token = (now - attempt.started_at) / num_done
        left_s = sequence.num_uncomputed * self._layout.token_bytes / NOMINAL_RATE
        return now + sequence.num_uncomputed * s_per_token - left_s
