"""Log-probabilities in the format of /v1/completions, and of prompts in vLLM's format."""

from __future__ import annotations

from collections.abc import Sequence

from router.openai.response_bodies import CompletionLogprobs, PromptLogprob, PromptLogprobs
from router.text.detokenizer import Detokenizer
from router.text.tokenizer import Tokenizer
from wire.sampling import TokenLogprob


class TextOffsets:
    """Character offsets of tokens in a choice's text.

    `stream` is a detokenizer for this choice alone, `start` the length of the text before it. A
    token within a character has that character's offset; a token without text has the next one's.
    """

    def __init__(self, stream: Detokenizer, start: int = 0) -> None:
        self._stream = stream
        self._end = start

    def of(self, tokens: Sequence[int]) -> list[int]:
        """The offsets of the next tokens."""
        offsets = []
        for token in tokens:
            offsets.append(self._end)
            self._end += len(self._stream.push(token))
        return offsets


def completion_logprobs(
    tokens: Sequence[int],
    logprobs: Sequence[TokenLogprob | None],
    offsets: TextOffsets,
    tokenizer: Tokenizer,
) -> CompletionLogprobs:
    """Log-probabilities of the tokens; None stands for a prompt's first token, which has none."""
    return CompletionLogprobs(
        tokens=[*map(tokenizer.token_text, tokens)],
        token_logprobs=[None if each is None else each.logprob for each in logprobs],
        top_logprobs=[
            None if each is None else _by_text(token, each, tokenizer)
            for token, each in zip(tokens, logprobs, strict=True)
        ],
        text_offset=offsets.of(tokens),
    )


def prompt_logprobs(
    tokens: Sequence[int], logprobs: Sequence[TokenLogprob], tokenizer: Tokenizer
) -> PromptLogprobs:
    """Log-probabilities of all prompt tokens; the first has none."""
    rest = (
        _by_id(token, each, tokenizer) for token, each in zip(tokens[1:], logprobs, strict=True)
    )
    return [None, *rest]


def joined_logprobs(first: CompletionLogprobs, second: CompletionLogprobs) -> CompletionLogprobs:
    """The log-probabilities of a prompt and of its answer, concatenated."""
    return CompletionLogprobs(
        tokens=first.tokens + second.tokens,
        token_logprobs=first.token_logprobs + second.token_logprobs,
        top_logprobs=first.top_logprobs + second.top_logprobs,
        text_offset=first.text_offset + second.text_offset,
    )


def _by_text(token: int, logprob: TokenLogprob, tokenizer: Tokenizer) -> dict[str, float]:
    """The alternatives and the token itself, by text. For two tokens with the same text, such as a
    letter and its byte, the likelier one counts."""
    found: dict[str, float] = {}
    for top, value in zip(logprob.top_ids, logprob.top_logprobs, strict=True):
        found.setdefault(tokenizer.token_text(top), value)
    found.setdefault(tokenizer.token_text(token), logprob.logprob)
    return found


def _by_id(token: int, logprob: TokenLogprob, tokenizer: Tokenizer) -> dict[str, PromptLogprob]:
    best = zip(logprob.top_ids, logprob.top_logprobs, strict=True)
    told = {token: (logprob.logprob, None)} | {
        top: (value, rank) for rank, (top, value) in enumerate(best, 1)
    }
    return {
        str(index): PromptLogprob(
            logprob=value, rank=rank, decoded_token=tokenizer.token_text(index)
        )
        for index, (value, rank) in told.items()
    }
