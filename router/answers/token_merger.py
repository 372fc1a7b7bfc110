"""Merges the streams of two workers into one, by token position, without duplicates or gaps."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wire.messages import Output


class TokenGap(Exception):
    """Tokens are missing before the ones that arrived."""


class TokenMerger:
    """Holds all merged tokens; `prompt` is where positions are counted from."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.num_prompt = len(prompt)
        self._sequence = list(prompt)

    @property
    def sequence(self) -> tuple[int, ...]:
        """The prompt and all merged tokens."""
        return tuple(self._sequence)

    @property
    def num_tokens(self) -> int:
        """Number of tokens of prompt and answer, which is the position of the next one."""
        return len(self._sequence)

    @property
    def num_output(self) -> int:
        return len(self._sequence) - self.num_prompt

    def merge(self, output: Output) -> Output:
        """The new part of `output`, possibly without tokens. Raises TokenGap."""
        known = len(self._sequence) - output.position
        if known < 0:
            raise TokenGap(f"token {output.position} came where {len(self._sequence)} was next")
        if known > 0:
            output = _without(output, known)
        self._sequence.extend(output.tokens)
        return output


def _without(output: Output, num_known: int) -> Output:
    return msgspec.structs.replace(
        output,
        position=output.position + num_known,
        tokens=output.tokens[num_known:],
        logprobs=output.logprobs[num_known:],
    )
