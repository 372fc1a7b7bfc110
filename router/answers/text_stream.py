"""The text of one stream: detokenizer, then stop strings, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from router.answers.stops import StopMatcher
from router.text.detokenizer import Detokenizer
from wire.messages import FinishReason, Output


class TextStream:
    """Detokenizes a stream, and counts the tokens of the answer: those before its stop string."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: StopMatcher,
        min_tokens: int,
        hidden: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        """`hidden` are the names of special tokens that have no text, but may be stop strings."""
        self._detokenizer = detokenizer
        self._stops = stops
        self._min_tokens = min_tokens
        self._hidden = hidden
        self.num_tokens = 0
        self.finish: FinishReason | None = None
        self.ended_here = False
        """Whether the router ends the answer before its worker does, as at a stop string."""

    @property
    def stop_text(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        return self._stops.matched

    def push(self, output: Output) -> str:
        """The text to show now.

        `finish` is set when the answer is complete; `num_tokens` then excludes tokens of `output`
        after a stop string.
        """
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
                break  # a stop token is not part of the text
            pieces.append(self._push(token))
            if self._stops.matched is not None:
                self.end()
                return "".join(pieces)
        if output.finish is not None:
            pieces.append(self._flush())
            self.finish = FinishReason.STOP if self.stop_text else output.finish
        return "".join(pieces)

    def end(self) -> None:
        """Complete the answer, whatever the worker generates afterwards."""
        self.finish, self.ended_here = FinishReason.STOP, True

    def end_unsaid(self) -> None:
        """Complete an answer without tokens."""
        self.finish = FinishReason.LENGTH

    def _push(self, token: int) -> str:
        text = self._detokenizer.push(token)
        self.num_tokens += 1
        if self.num_tokens < self._min_tokens:
            return text  # stop strings count from min_tokens on
        return self._stops.push(text) + self._push_name(token)

    def _push_name(self, token: int) -> str:
        """Text released after matching the token's hidden name, if it has one, against stop
        strings."""
        name = self._hidden.get(token)
        if name is None or self.num_tokens < self._min_tokens:
            return ""
        return self._stops.push(name, hidden=True)

    def _flush(self) -> str:
        return self._stops.push(self._detokenizer.flush()) + self._stops.flush()
