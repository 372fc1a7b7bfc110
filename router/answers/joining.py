"""Joins an answer's deltas while they wait for their client, to save memory."""

from __future__ import annotations

from collections.abc import Sequence

from router.requests.request import Delta

MESSAGE_BYTES, TOKEN_BYTES, LOGPROB_BYTES, TOP_BYTES = 400, 40, 120, 72
"""Approximate memory of a delta, of each of its tokens with its text, of a log-probability, and of
each alternative."""
JOIN_EVERY = 64
"""Number of deltas that are joined at once, since a token in a delta of its own needs ten times the
memory."""


class HeldDeltas:
    """The deltas of one answer that were not sent yet."""

    def __init__(self) -> None:
        self._joined: list[Delta] = []
        self._recent: list[Delta] = []
        self.num_tokens = 0
        self.num_bytes = 0
        """Approximate memory."""
        self.begins_or_ends = False
        """Whether the answer's first or last delta is among them."""

    def add(self, delta: Delta) -> None:
        self._recent.append(delta)
        self.num_tokens += len(delta.tokens)
        self.num_bytes += size_of(delta)
        if delta.prompt_tokens is not None or delta.ending is not None:
            self.begins_or_ends = True
        if len(self._recent) == JOIN_EVERY:
            self._joined.append(joined(self._recent))
            self._recent = []
            self.num_bytes -= (JOIN_EVERY - 1) * MESSAGE_BYTES

    def whole(self) -> Delta:
        """All of them as one delta."""
        return joined([*self._joined, *self._recent])


def joined(deltas: Sequence[Delta]) -> Delta:
    """Consecutive deltas of one answer, as one."""
    first, last = deltas[0], deltas[-1]
    if first is last:
        return first
    return Delta(
        text="".join([each.text for each in deltas]),
        tokens=tuple([token for each in deltas for token in each.tokens]),
        logprobs=tuple([logprob for each in deltas for logprob in each.logprobs]),
        index=first.index,
        reasoning="".join([each.reasoning for each in deltas]),
        tool_calls=tuple([call for each in deltas for call in each.tool_calls]),
        prompt_tokens=first.prompt_tokens,
        prompt_logprobs=first.prompt_logprobs,
        ending=last.ending,
    )


def size_of(delta: Delta) -> int:
    """Approximate memory of a delta, in bytes."""
    size = MESSAGE_BYTES + TOKEN_BYTES * len(delta.tokens)
    for each in delta.logprobs:
        size += LOGPROB_BYTES + TOP_BYTES * len(each.top_ids)
    return size
