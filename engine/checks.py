"""Whether a sequence can run at all."""

from __future__ import annotations

from engine.errors import SequenceError
from engine.sequence import Sequence


def check_sequence(sequence: Sequence, longest: int, vocab_size: int) -> None:
    """Raises SequenceError for one of more than `longest` tokens in the end, or of tokens that the
    model does not know."""
    if not 0 < sequence.num_prompt <= len(sequence.tokens):
        raise SequenceError(
            f"{sequence.leg}: num_prompt is {sequence.num_prompt} of {len(sequence.tokens)} "
            "tokens, must be at least 1"
        )
    if sequence.num_prompt + sequence.sampling.max_tokens > longest:
        raise SequenceError(
            f"{sequence.leg}: {sequence.num_prompt} prompt tokens and "
            f"{sequence.sampling.max_tokens} new ones are more than the {longest} that this worker "
            "can hold"
        )
    if max(sequence.tokens) >= vocab_size or min(sequence.tokens) < 0:
        raise SequenceError(
            f"{sequence.leg}: its token ids go from {min(sequence.tokens)} to "
            f"{max(sequence.tokens)}, the model's from 0 to {vocab_size - 1}"
        )
