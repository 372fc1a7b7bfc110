"""One growing answer: turns merged outputs into deltas for the client."""

from __future__ import annotations

from typing import Protocol

import msgspec

from router.answers.stops import StopMatcher
from router.answers.text_stream import TextStream
from router.requests.request import Delta, GenerateRequest, ToolCallDelta
from router.text.tokenizer import Tokenizer
from wire.messages import Output


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a text chunk, parsed in a model family's format."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    over: bool = False
    """Whether the router should end the answer here."""


class AnswerParser(Protocol):
    """The parsing state of one answer. The result does not depend on how the text is split into
    chunks."""

    def push(self, text: str, *, done: bool) -> Parsed:
        """The newly parsed part of the answer; with `done` all that remains."""


class Answer:
    """The state of one answer; `text` says whether it is complete, and why."""

    def __init__(
        self,
        request: GenerateRequest,
        tokenizer: Tokenizer,
        index: int = 0,
        parser: AnswerParser | None = None,
        shown_tokens: frozenset[int] = frozenset(),
    ) -> None:
        self.text = TextStream(
            tokenizer.detokenizer(
                skip_special_tokens=request.skip_special_tokens,
                shown=shown_tokens,
                context=request.prompt_tokens,
            ),
            StopMatcher(request.stop, include=request.include_stop),
            request.sampling.min_tokens,
            _hidden_names(request, tokenizer, shown_tokens),
        )
        self.index = index
        self._parser = parser
        self._prompt_tokens: tuple[int, ...] | None = request.prompt_tokens
        self.has_tool_calls = False
        self._prompt_only = request.prompt_only

    def delta(self, output: Output) -> Delta:
        """The delta for an output of new tokens; tokens after a stop string are dropped."""
        prompt_tokens, self._prompt_tokens = self._prompt_tokens, None
        if self._prompt_only:
            return self._without_answer(output, prompt_tokens)
        num_before = self.text.num_tokens
        text = self.text.push(output)
        num_told = self.text.num_tokens - num_before
        plain = Delta(
            text=text,
            tokens=output.tokens[:num_told],
            logprobs=output.logprobs[:num_told],
            index=self.index,
            prompt_tokens=prompt_tokens,
            prompt_logprobs=() if prompt_tokens is None else output.prompt_logprobs,
        )
        return plain if self._parser is None else self._parsed(plain)

    def _without_answer(self, output: Output, prompt_tokens: tuple[int, ...] | None) -> Delta:
        """The delta of a request without an answer: the worker samples at least one token, which is
        dropped."""
        self.text.end_unsaid()
        return Delta(
            text="",
            tokens=(),
            index=self.index,
            prompt_tokens=prompt_tokens,
            prompt_logprobs=output.prompt_logprobs,
        )

    def _parsed(self, plain: Delta) -> Delta:
        assert self._parser is not None
        parsed = self._parser.push(plain.text, done=self.text.finish is not None)
        self.has_tool_calls |= bool(parsed.tool_calls)
        if parsed.over:
            self.text.end()
        return msgspec.structs.replace(
            plain, text=parsed.text, reasoning=parsed.reasoning, tool_calls=parsed.tool_calls
        )


def _hidden_names(
    request: GenerateRequest, tokenizer: Tokenizer, shown: frozenset[int]
) -> dict[int, str]:
    """Special tokens without text, by id, whose names occur in stop strings."""
    if not request.stop or not request.skip_special_tokens:
        return {}
    return {
        token: name
        for token, name in tokenizer.special_texts.items()
        if token not in shown and any(name in stop for stop in request.stop)
    }
