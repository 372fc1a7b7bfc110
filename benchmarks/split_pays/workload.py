"""The requests: long prompts that share nothing, short answers, Poisson arrivals."""

from __future__ import annotations

import random

import msgspec

PROMPT_TOKENS, ANSWER_TOKENS = (512, 1024), (32, 64)
"""Both are drawn evenly from these ranges."""
MEAN_PROMPT, MEAN_ANSWER = sum(PROMPT_TOKENS) / 2, sum(ANSWER_TOKENS) / 2
TTFT_LEAST_S, TTFT_PROMPTS = 1.0, 3.0
"""A first token may take a second, and three times what its prompt takes alone."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request, with its targets; times in seconds."""

    at_s: float
    prompt: tuple[int, ...]
    num_new: int
    ttft_s: float
    tpot_s: float


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """What clients expect."""

    tpot_s: float
    prompt_token_s: float
    """What a token of a prompt takes alone."""

    def ttft_s(self, num_prompt: int) -> float:
        return TTFT_LEAST_S + TTFT_PROMPTS * num_prompt * self.prompt_token_s


def draw_requests(
    seed: int, per_s: float, seconds: float, targets: Targets, vocab_size: int
) -> list[Request]:
    """Requests for so many seconds; equal seeds give equal ones, at any rate in equal order."""
    draw = random.Random(seed)
    requests: list[Request] = []
    at_s = 0.0
    while (at_s := at_s + draw.expovariate(1.0) / per_s) < seconds:
        num_prompt, num_new = draw.randint(*PROMPT_TOKENS), draw.randint(*ANSWER_TOKENS)
        requests.append(
            Request(
                at_s=at_s,
                prompt=tuple(draw.randrange(5, vocab_size) for _ in range(num_prompt)),
                num_new=num_new,
                ttft_s=targets.ttft_s(num_prompt),
                tpot_s=targets.tpot_s,
            )
        )
    return requests
