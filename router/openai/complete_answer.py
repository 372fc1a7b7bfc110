"""Complete answers, joined from their deltas, and their usage."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router.openai.response_bodies import PromptTokensDetails, UsageBody
from router.requests.request import Delta, Ending, ToolCallDelta, Usage
from wire.sampling import TokenLogprob


class CompleteAnswer(msgspec.Struct, kw_only=True):
    """One complete answer."""

    index: int
    ending: Ending
    prompt_tokens: tuple[int, ...]
    prompt_logprobs: tuple[TokenLogprob, ...]
    text: str
    reasoning: str
    tokens: tuple[int, ...]
    logprobs: list[TokenLogprob]
    tool_calls: list[ToolCallDelta]


def joined(deltas: Sequence[Delta]) -> list[CompleteAnswer]:
    """The complete answers, by index."""
    by_index: dict[int, list[Delta]] = {}
    for delta in deltas:
        by_index.setdefault(delta.index, []).append(delta)
    return [_joined(by_index[index]) for index in sorted(by_index)]


def _joined(deltas: Sequence[Delta]) -> CompleteAnswer:
    ending = deltas[-1].ending
    assert ending is not None, "the last delta has the ending"
    return CompleteAnswer(
        index=deltas[0].index,
        ending=ending,
        prompt_tokens=deltas[0].prompt_tokens or (),
        prompt_logprobs=deltas[0].prompt_logprobs,
        text="".join(delta.text for delta in deltas),
        reasoning="".join(delta.reasoning for delta in deltas),
        tokens=tuple(token for delta in deltas for token in delta.tokens),
        logprobs=[each for delta in deltas for each in delta.logprobs],
        tool_calls=_joined_calls(deltas),
    )


def _joined_calls(deltas: Sequence[Delta]) -> list[ToolCallDelta]:
    calls: dict[int, ToolCallDelta] = {}
    for piece in (call for delta in deltas for call in delta.tool_calls):
        known = calls.get(piece.index, ToolCallDelta(index=piece.index))
        calls[piece.index] = ToolCallDelta(
            index=piece.index,
            id=known.id or piece.id,
            name=known.name or piece.name,
            arguments=known.arguments + piece.arguments,
        )
    return [calls[index] for index in sorted(calls)]


class UsageTotal:
    """Token usage of a request so far: in total, and for each answer."""

    def __init__(self) -> None:
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._completion_tokens = 0
        self._running: dict[int, list[int]] = {}

    def begin(self, index: int, num_prompt: int) -> UsageBody:
        self._running[index] = [num_prompt, 0]
        return self.running(index, 0)

    def running(self, index: int, num_tokens: int) -> UsageBody:
        """Usage of one answer so far; cached prompt tokens are known only at its end."""
        count = self._running[index]
        count[1] += num_tokens
        prompt, completion = count
        return UsageBody(
            prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
        )

    def add(self, usage: Usage) -> None:
        self._prompt_tokens += usage.prompt_tokens
        self._cached_tokens += usage.cached_tokens
        self._completion_tokens += usage.completion_tokens

    def body(self) -> UsageBody:
        return UsageBody(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            total_tokens=self._prompt_tokens + self._completion_tokens,
            prompt_tokens_details=PromptTokensDetails(self._cached_tokens),
        )
