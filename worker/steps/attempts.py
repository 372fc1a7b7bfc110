"""The attempts that a worker serves: submitted, cancelled, moved, timed out, reported."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable

from engine.engine import SequenceProgress
from engine.errors import GrammarsBusy, SequenceError
from engine.sequence import Sequence, Status
from wire.identity import AttemptId
from wire.messages import CopyPrefix, Destination, Failed, Kept, Output, StepOutputs, Submit
from wire.sampling import SamplingParams
from worker.steps.attempt_state import AttemptState
from worker.steps.destination_handoffs import DestinationHandoffs
from worker.steps.reports import Reports
from worker.steps.source_handoffs import SourceHandoffs
from worker.steps.step_context import StepContext

log = logging.getLogger(__name__)


class Attempts:
    """All attempts of one worker, and the handoffs that take them to other workers or bring them.

    `settle()` waits for the step under way; it is called before a sequence is changed.
    """

    def __init__(self, context: StepContext, settle: Callable[[], None]) -> None:
        self.source_handoffs = SourceHandoffs(context, self._forget)
        self.destination_handoffs = DestinationHandoffs(context, self._adopted)
        self.reports = Reports(context, self.destination_handoffs.num_offers)
        self._engine = context.engine
        self._outbox = context.outbox
        self._clock = context.clock
        self._settle = settle
        self._attempts: dict[AttemptId, AttemptState] = {}

    @property
    def num_handoffs(self) -> int:
        return len(self.source_handoffs) + len(self.destination_handoffs)

    def __len__(self) -> int:
        return len(self._attempts) + self.num_handoffs

    def get(self, attempt_id: AttemptId) -> AttemptState | None:
        """An attempt that is served here; None if it is not."""
        return self._attempts.get(attempt_id)

    def submit(self, router_id: str, message: Submit) -> None:
        """Queue an attempt; a known attempt id changes nothing."""
        attempt_id = message.attempt_id
        self.reports.submitted(router_id, message.number)
        if (
            attempt_id in self._attempts
            or attempt_id in self.source_handoffs
            or attempt_id in self.destination_handoffs
        ):
            return
        log.debug("attempt %s was submitted by router %s", attempt_id, router_id)
        attempt = AttemptState.of(message, router_id, self._clock())
        if self.destination_handoffs.draining:
            self._fail(attempt, "queue", "this worker drains", retryable=True)
            return
        try:
            self._engine.add(attempt.sequence)
        except SequenceError as error:
            self._fail(attempt, "queue", str(error), retryable=False)
        except GrammarsBusy as error:
            self._fail(attempt, "queue", str(error), retryable=True)
        else:
            self._attempts[attempt_id] = attempt

    def cancel(self, attempt_id: AttemptId, cause: str = "cancelled") -> None:
        """End an attempt in any state; an unknown attempt id is remembered as ended."""
        self._settle()
        self.destination_handoffs.cancel(attempt_id, cause)
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            return
        sequence = attempt.sequence
        if sequence.pinned:
            self.source_handoffs.cancel(attempt, cause)
        if not sequence.pinned:
            self._engine.drop(sequence)
        elif sequence.status is Status.RUNNING:
            self._engine.hold(sequence)
        self._forget(attempt_id)

    def move(self, attempt_id: AttemptId, destination: Destination) -> None:
        """Hand a sequence that decodes here to another worker."""
        self._settle()
        attempt = self._attempts.get(attempt_id)
        if attempt is not None:
            self.source_handoffs.move(attempt, destination)

    def copy_prefix(self, router_id: str, message: CopyPrefix) -> None:
        """Copy cached blocks to another worker; a known attempt id changes nothing."""
        attempt_id = message.attempt_id
        if attempt_id in self._attempts or attempt_id in self.source_handoffs:
            return
        params = SamplingParams(max_tokens=1)
        sequence = Sequence(attempt_id, list(message.tokens), params, traits=message.traits)
        if not self._engine.try_hold_cached(sequence):
            kept = Kept(attempt_id=attempt_id, cause="no block of it is cached here any more")
            self._outbox.to_router(router_id, kept)
            return
        attempt = AttemptState(
            sequence, router_id, len(sequence.tokens), self._clock(), prefilled=True
        )
        attempt.prefix_only, attempt.destination = True, message.destination
        self._attempts[attempt_id] = attempt
        if sequence.status is Status.HELD:
            self.source_handoffs.copy_prefix(attempt)

    def router_lost(self, router_id: str) -> None:
        """Cancel all attempts of a router whose session has ended."""
        self.reports.forget(router_id)
        self.destination_handoffs.router_lost(router_id)
        for attempt_id, attempt in list(self._attempts.items()):
            if attempt.router_id == router_id:
                self.cancel(attempt_id, f"router {router_id} is gone")

    def end_overdue(self, now: float) -> None:
        """Fail attempts whose deadline has passed. The router does so too, unless it is cut off."""
        for attempt_id, attempt in list(self._attempts.items()):
            if attempt.deadline is not None and now >= attempt.deadline:
                self._settle()
                if attempt_id not in self._attempts:
                    continue  # the step under way has ended it
                stage = "decode" if attempt.prefilled else "prefill"
                self._fail(attempt, stage, "deadline passed", retryable=False)
                self.cancel(attempt_id, "deadline passed")

    def started(self, sequence: Sequence, now: float) -> None:
        """The engine has admitted a sequence, which has blocks now: offer it to its destination."""
        attempt = self._attempts[sequence.attempt_id]
        if attempt.started_at is None:
            attempt.started_at = now
        if attempt.prefix_only:
            self.source_handoffs.copy_prefix(attempt)
        elif attempt.destination is not None and attempt.handoff is None:
            self.source_handoffs.open(attempt)

    def emit(self, progress: list[SequenceProgress]) -> None:
        """Send what a step has made: tokens to routers, blocks to destinations, cache events."""
        outputs: dict[str, list[Output]] = defaultdict(list)
        for each in progress:
            attempt = self._attempts[each.sequence.attempt_id]
            if each.sampled:
                outputs[attempt.router_id].append(attempt.take_output(each))
            self._progressed(attempt, each)
        for router_id, batch in outputs.items():
            self.reports.generated(len(batch))
            self._outbox.to_router(router_id, StepOutputs(outputs=tuple(batch)))
        for sequence in self._engine.grammar_sequences.take_failed():
            self._fail_lost(sequence)
        self.reports.send_cache_events()
        self._outbox.flush()

    def _fail_lost(self, sequence: Sequence) -> None:
        """Fail a sequence that no worker can continue by its grammar."""
        assert sequence.grammar is not None
        cause, invalid = str(sequence.grammar.error), sequence.grammar.to_blame
        attempt = self._attempts.get(sequence.attempt_id)
        if attempt is not None:
            self._fail(attempt, "grammar", cause, retryable=False, invalid=invalid)
            self.cancel(sequence.attempt_id, cause)

    def _progressed(self, attempt: AttemptState, progress: SequenceProgress) -> None:
        if progress.sampled and not attempt.prefilled:
            attempt.prefilled = True
            self.reports.prefilled(progress.sequence)
            self._outbox.to_router(attempt.router_id, attempt.times(self._clock()))
        self.source_handoffs.progressed(attempt, progress)
        if progress.finish is not None:
            self._forget(progress.sequence.attempt_id)

    def _adopted(self, attempt: AttemptState) -> None:
        self._attempts[attempt.sequence.attempt_id] = attempt

    def _forget(self, attempt_id: AttemptId) -> None:
        """This worker no longer serves the attempt; its transfer may still have to end."""
        self._attempts.pop(attempt_id, None)
        self.destination_handoffs.ended(attempt_id)

    def _fail(
        self,
        attempt: AttemptState,
        stage: str,
        cause: str,
        *,
        retryable: bool,
        invalid: bool = False,
    ) -> None:
        attempt_id = attempt.sequence.attempt_id
        failed = Failed(
            attempt_id=attempt_id, stage=stage, cause=cause, retryable=retryable, invalid=invalid
        )
        log.info("attempt %s failed, %s: %s", attempt_id, stage, cause)
        self._outbox.to_router(attempt.router_id, failed)
