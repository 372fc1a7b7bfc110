"""One stream out of two: tokens by their position, none twice and none missing."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wire.messages import FinishReason, Output
from wire.sampling import TokenLogprob


class Tokens(msgspec.Struct, kw_only=True):
    """New tokens in order. `finish` is set when no more will come, `gap` when some were lost."""

    tokens: list[int]
    logprobs: list[TokenLogprob]
    finish: FinishReason | None = None
    stop_token: int | None = None
    gap: str | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


class TokenMerger:
    """Knows everything delivered so far; `prompt` is where positions are counted from."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.num_prompt = len(prompt)
        self._sequence = list(prompt)

    @property
    def sequence(self) -> tuple[int, ...]:
        """The prompt and every token that was merged."""
        return tuple(self._sequence)

    @property
    def num_tokens(self) -> int:
        """Of the prompt and the answer: the position of the next."""
        return len(self._sequence)

    @property
    def num_output(self) -> int:
        return len(self._sequence) - self.num_prompt

    def follow(self, output: Output) -> bool:
        """Takes an output all of whose tokens are new; False when it is another."""
        if output.position != len(self._sequence):
            return False
        self._sequence.extend(output.tokens)
        return True

    def merge(self, outputs: Sequence[Output]) -> Tokens:
        """What is new in `outputs`, up to the first gap."""
        if len(outputs) == 1 and self.follow(outputs[0]):
            return _all_of(outputs[0])
        new = Tokens(tokens=[], logprobs=[])
        for output in outputs:
            known = len(self._sequence) - output.position
            if known < 0:
                new.gap = f"token {output.position} came where {len(self._sequence)} was next"
                break
            self._take(output, known, new)
        return new

    def _take(self, output: Output, known: int, new: Tokens) -> None:
        fresh = output.tokens[known:]
        self._sequence.extend(fresh)
        new.tokens.extend(fresh)
        new.logprobs.extend(output.logprobs[known:])
        if output.prompt_logprobs:
            new.prompt_logprobs = output.prompt_logprobs
        if output.finish is not None:
            new.finish = output.finish
            new.stop_token = output.stop_token


def _all_of(output: Output) -> Tokens:
    return Tokens(
        tokens=list(output.tokens),
        logprobs=list(output.logprobs),
        finish=output.finish,
        stop_token=output.stop_token,
        prompt_logprobs=output.prompt_logprobs,
    )
