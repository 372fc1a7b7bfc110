"""Fewer and larger messages, for clients that ask for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from router.errors import RouterError
from router.requests.request import Delta


async def paced(deltas: AsyncGenerator[Delta, None], interval: int) -> AsyncGenerator[Delta, None]:
    """The first of each answer at once, then one for every `interval` tokens."""
    held: dict[int, Delta] = {}
    try:
        async with aclosing(deltas):
            async for delta in deltas:
                before = held.pop(delta.index, None)
                longer = delta if before is None else join(before, delta)
                if longer.prompt_tokens or longer.ending or len(longer.tokens) >= interval:
                    yield longer
                else:
                    held[delta.index] = longer
    except RouterError:
        for delta in held.values():
            yield delta
        raise


def join(one: Delta, next: Delta) -> Delta:
    """Two neighbours of one answer."""
    return Delta(
        text=one.text + next.text,
        tokens=one.tokens + next.tokens,
        logprobs=one.logprobs + next.logprobs,
        index=one.index,
        reasoning=one.reasoning + next.reasoning,
        tool_calls=one.tool_calls + next.tool_calls,
        prompt_tokens=one.prompt_tokens,
        ending=next.ending,
    )
