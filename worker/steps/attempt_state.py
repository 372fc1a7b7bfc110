"""What a worker remembers of an attempt that it serves for a router."""

from __future__ import annotations

from dataclasses import dataclass

from engine.engine import SequenceProgress
from engine.sequence import Sequence
from kv_transfer.handoff.source import SourceHandoff
from wire.messages import Destination, Output, Prefilled, Submit
from wire.sampling import TokenLogprob


@dataclass(slots=True)
class AttemptState:
    """One attempt. `num_sent` tokens of the sequence have been sent to the router, or came from
    it."""

    sequence: Sequence
    router_id: str
    num_sent: int
    submitted_at: float
    deadline: float | None = None
    destination: Destination | None = None
    started_at: float | None = None
    prefilled: bool = False
    handoff: SourceHandoff | None = None
    link: str | None = None
    """Over which the handoff's grant came; where its blocks and all further messages go."""
    kept: bool = False
    """True once its handoff has failed and this worker decodes the sequence itself."""
    prefix_only: bool = False
    """True for a copy of cached blocks: there is nothing to decode."""
    wanted: bool = True
    """False once cancelled or handed over: only the end of its transfer is still awaited."""
    last_logprob: TokenLogprob | None = None
    """Of the sequence's last token, where the request asked for it."""
    unsent_logprobs: tuple[TokenLogprob, ...] = ()
    unsent_scores: tuple[TokenLogprob, ...] = ()
    """Log-probabilities of the prompt's tokens, from the worker that computed it."""

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

    def take_output(self, made: SequenceProgress) -> Output:
        """What a step drew, and all before it that the router has not been sent."""
        assert made.sampled is not None
        tokens = tuple(self.sequence.tokens[self.num_sent :])
        position, self.num_sent = self.num_sent, len(self.sequence.tokens)
        self.last_logprob = made.sampled.logprob
        logprobs, self.unsent_logprobs = self.unsent_logprobs, ()
        if made.sampled.logprob is not None:
            logprobs = (*logprobs, made.sampled.logprob)
        scores, self.unsent_scores = self.unsent_scores, ()
        if not self.prefilled:
            scores = tuple(self.sequence.scores)
        return Output(
            attempt_id=self.sequence.attempt_id,
            position=position,
            tokens=tokens,
            logprobs=logprobs,
            finish=made.finish,
            stop_token=made.stop_token,
            prompt_logprobs=scores,
        )

    def times(self, now: float) -> Prefilled:
        """How long it took to the first token, which has just been drawn."""
        assert self.started_at is not None
        return Prefilled(
            attempt_id=self.sequence.attempt_id,
            queue_s=self.started_at - self.submitted_at,
            prefill_s=now - self.started_at,
            cached_tokens=self.sequence.num_cached,
        )
