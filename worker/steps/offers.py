"""Offers of sequences to other workers: made for the source, checked for the destination."""

from __future__ import annotations

import msgspec

from kv_transfer.handoff.source import Final
from kv_transfer.layout.head_routes import CannotExchange, check_exchange
from wire.handoff import Offer, RefuseReason
from worker.steps.attempt_state import AttemptState
from worker.steps.step_context import StepContext


def make_offer(context: StepContext, attempt: AttemptState, number: int, num_tokens: int) -> Offer:
    """Offers the first `num_tokens` tokens of an attempt's sequence to its destination."""
    sequence, destination = attempt.sequence, attempt.destination
    assert destination is not None
    return Offer(
        attempt_id=sequence.attempt_id,
        source=context.ref,
        destination=destination.ref,
        offer_number=number,
        tokens=tuple(sequence.tokens[:num_tokens]),
        max_tokens=sequence.num_prompt + sequence.sampling.max_tokens,
        layout=context.endpoint.layout,
        content=context.content,
        router_id=attempt.router_id,
        deadline_s=context.config.handoff_deadline_s,
        traits=sequence.traits,
        prefix_only=attempt.prefix_only,
        grammar=sequence.sampling.grammar,
    )


def final_state(attempt: AttemptState) -> Final:
    """What the destination needs to go on with an attempt, beside the blocks of its offer."""
    assert attempt.handoff is not None
    sequence = attempt.sequence
    return Final(
        tuple(sequence.tokens[attempt.handoff.offer.num_tokens :]),
        sequence.num_prompt,
        msgspec.structs.replace(sequence.sampling, prompt_logprobs=None),
        attempt.last_logprob,
        tuple(sequence.scores),
    )


def why_refused(context: StepContext, offer: Offer) -> tuple[RefuseReason, str] | None:
    """Why an offered sequence could never run here, with details; None if it could."""
    problem = _incompatibility(context, offer)
    if problem is not None:
        return RefuseReason.INCOMPATIBLE, problem
    if offer.grammar is not None and context.engine.grammar_sequences.grammars is None:
        return RefuseReason.INCOMPATIBLE, "no tokenizer.json here to follow a grammar with"
    longest = context.engine.max_sequence_tokens
    if offer.max_tokens > longest:
        return RefuseReason.TOO_LONG, f"up to {offer.max_tokens} tokens, here {longest} fit"
    return None


def _incompatibility(context: StepContext, offer: Offer) -> str | None:
    if offer.content != context.content:
        return f"the source holds {offer.content}, this worker {context.content}"
    try:
        check_exchange(offer.layout, context.endpoint.layout)
    except CannotExchange as error:
        return str(error)
    return None
