"""The state of one attempt that a worker serves for a router."""

from __future__ import annotations

from dataclasses import dataclass

from engine.engine import SequenceProgress
from engine.sequence import Sequence
from kv_transfer.handoff.source import SourceHandoff
from wire.messages import Destination, Output, Prefilled, Submit
from wire.sampling import TokenLogprob


@dataclass(slots=True)
class AttemptState:
    """Owned by the step loop's thread; at most one for each attempt id."""

    sequence: Sequence
    router_id: str
    num_sent: int
    """Leading tokens of the sequence that the router has: sent to it, or received from it."""
    submitted_at: float
    deadline: float | None = None
    destination: Destination | None = None
    started_at: float | None = None
    prefilled: bool = False
    handoff: SourceHandoff | None = None
    link: str | None = None
    """The link over which the destination's grant came: blocks and all further messages take it."""
    kept: bool = False
    """True when the handoff has failed, and this worker decodes the sequence itself."""
    prefix_only: bool = False
    """True for a copy of cached blocks to another worker: nothing is computed."""
    wanted: bool = True
    """False when it was cancelled or handed over, and only the end of its transfer is awaited."""
    last_logprob: TokenLogprob | None = None
    """Log-probability of the sequence's last token, where the request asks for it."""
    unsent_logprobs: tuple[TokenLogprob, ...] = ()
    """Log-probabilities of tokens that the source sampled; they go out with the next output."""
    unsent_prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Log-probabilities of the prompt's tokens, from the worker that prefilled it."""

    @staticmethod
    def of(submit: Submit, router_id: str, now: float) -> AttemptState:
        """An attempt that a router asks for; its sequence has not been added to the engine."""
        sequence = Sequence(
            submit.attempt_id,
            list(submit.tokens),
            submit.sampling,
            num_prompt=submit.num_prompt,
            traits=submit.traits,
        )
        return AttemptState(
            sequence,
            router_id,
            len(submit.tokens),
            now,
            deadline=None if submit.deadline_s is None else now + submit.deadline_s,
            destination=submit.destination,
        )

    def take_output(self, progress: SequenceProgress) -> Output:
        """Everything that the router has not been sent, up to the token that a step has sampled."""
        assert progress.sampled
        tokens = tuple(self.sequence.tokens[self.num_sent :])
        position, self.num_sent = self.num_sent, len(self.sequence.tokens)
        self.last_logprob = progress.sampled[-1].logprob
        logprobs, self.unsent_logprobs = self.unsent_logprobs, ()
        logprobs += tuple(it.logprob for it in progress.sampled if it.logprob is not None)
        prompt_logprobs, self.unsent_prompt_logprobs = self.unsent_prompt_logprobs, ()
        if not self.prefilled:
            prompt_logprobs = tuple(self.sequence.scores)
        return Output(
            attempt_id=self.sequence.attempt_id,
            position=position,
            tokens=tokens,
            logprobs=logprobs,
            finish=progress.finish,
            stop_token=progress.stop_token,
            prompt_logprobs=prompt_logprobs,
        )

    def times(self, now: float) -> Prefilled:
        """How long queueing and prefill took; called when the first token has been sampled."""
        assert self.started_at is not None
        return Prefilled(
            attempt_id=self.sequence.attempt_id,
            queue_s=self.started_at - self.submitted_at,
            prefill_s=now - self.started_at,
            cached_tokens=self.sequence.num_cached,
        )
