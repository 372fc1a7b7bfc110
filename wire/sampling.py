"""How the next token is chosen, as the client asked for it; one struct from door to sampler."""

from __future__ import annotations

import enum

import msgspec


class GrammarKind(enum.Enum):
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"


class Grammar(msgspec.Struct, frozen=True):
    """What the answer must match, and ends with: a JSON schema, a regular expression, or a grammar
    in llguidance's dialect of Lark."""

    kind: GrammarKind
    text: str
    preface: str = ""
    """What comes before it, such as a thought: a rule of this name in Lark, and those it needs."""
    calls: str = ""
    """A grammar in Lark of what may come in its place: calls of tools."""


class TokenRules(msgspec.Struct, frozen=True, array_like=True):
    """Which tokens a request prefers, allows and forbids. Few have any: hence a struct beside."""

    bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit)."""
    allowed: tuple[int, ...] | None = None
    """No other token may be drawn."""
    banned: tuple[tuple[int, ...], ...] = ()
    """Runs of tokens that the output must not hold."""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Validated at the doors; the engine trusts it.

    `temperature` 0 means greedy. `seed` is always present (the router draws one when the client
    gave none), so that a sequence continues on another worker as it would have on the first.
    `logprobs` None means none are wanted, 0 the chosen token's alone, n the n best beside it.
    A `grammar` wins over whatever else would keep an answer from following it, or from its end.
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
    prompt_logprobs: int | None = None
    """The same of the prompt's tokens; they come with the first token of the answer."""
    grammar: Grammar | None = None
    rules: TokenRules | None = None

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
