"""Limits an answer to its first tool call, for models that may write several."""

from __future__ import annotations

from router.answers.answer import AnswerParser, Parsed


class FirstCallOnly:
    """An AnswerParser that ends the answer as soon as a second call begins."""

    def __init__(self, calls: AnswerParser) -> None:
        self._calls = calls
        self._over = False

    def push(self, text: str, *, done: bool) -> Parsed:
        """The parsed part of the text; empty once the answer is over."""
        if self._over:
            return Parsed(over=True)
        parsed = self._calls.push(text, done=done)
        first = tuple(call for call in parsed.tool_calls if call.index == 0)
        self._over = len(first) < len(parsed.tool_calls)
        return Parsed(text=parsed.text, tool_calls=first, over=self._over)
