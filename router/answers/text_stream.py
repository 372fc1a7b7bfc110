"""Tokens to text for one stream: detokenizer, then stop strings, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from router.answers.stops import StopMatcher
from router.text.detokenizer import Detokenizer
from wire.messages import FinishReason, Output


class TextStream:
    """Counts the tokens that belong to the answer: those after a stop string do not."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: StopMatcher,
        min_tokens: int,
        hidden: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        """`hidden` are the names of special tokens that leave no text, but can be stops."""
        self._detokenizer = detokenizer
        self._stops = stops
        self._min_tokens = min_tokens
        self._hidden = hidden
        self.num_tokens = 0
        self.finish: FinishReason | None = None
        self.ended_here = False
        """The router ends the answer, at a stop string or of its own; its worker goes on."""

    @property
    def stop_text(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        return self._stops.matched

    def push(self, output: Output) -> str:
        """Text to show now. `finish` is set when the answer is complete; then `num_tokens` does not
        count those of `output` that came after a stop string."""
        if output.finish is None and not self._stops:
            self.num_tokens += len(output.tokens)
            return "".join(map(self._detokenizer.push, output.tokens))
        pieces = []
        for index, token in enumerate(output.tokens):
            last = index == len(output.tokens) - 1
            ends = last and output.finish is not None and token == output.stop_token
            if ends and not self._stops.include:
                self.num_tokens += 1
                pieces.append(self._push_name(token))
                break  # a stop token ends the answer and is no part of its text
            pieces.append(self._push(token))
            if self._stops.matched is not None:
                self.end()
                return "".join(pieces)
        if output.finish is not None:
            pieces.append(self._flush())
            self.finish = FinishReason.STOP if self.stop_text else output.finish
        return "".join(pieces)

    def end(self) -> None:
        """The answer is complete, whatever the worker makes after it."""
        self.finish, self.ended_here = FinishReason.STOP, True

    def end_unsaid(self) -> None:
        """The answer is complete, and has no token."""
        self.finish = FinishReason.LENGTH

    def _push(self, token: int) -> str:
        text = self._detokenizer.push(token)
        self.num_tokens += 1
        if self.num_tokens < self._min_tokens:
            return text  # stops count from min_tokens on
        return self._stops.push(text) + self._push_name(token)

    def _push_name(self, token: int) -> str:
        """What its hidden name, where it has one, shows to be no stop."""
        name = self._hidden.get(token)
        if name is None or self.num_tokens < self._min_tokens:
            return ""
        return self._stops.push(name, hidden=True)

    def _flush(self) -> str:
        return self._stops.push(self._detokenizer.flush()) + self._stops.flush()
