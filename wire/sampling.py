"""How the next token is chosen, as the client asked for it; one struct from door to sampler."""

from __future__ import annotations

import msgspec


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Validated at the doors; the engine trusts it.

    `temperature` 0 means greedy. `seed` is always present (the router draws one when the client
    gave none), so that a sequence continues on another worker as it would have on the first.
    `logprobs` None means none are wanted, 0 the chosen token's alone, n the n best beside it.
    """

    max_tokens: int
    seed: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Natural log-probability of a chosen token, and of the best alternatives, best first.

    Taken from the raw distribution: after penalties nothing could be compared across requests.
    """

    logprob: float
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()
