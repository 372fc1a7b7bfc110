"""Sampling parameters and grammars: one struct from the public API to the sampler."""

from __future__ import annotations

import enum

import msgspec


class GrammarKind(enum.Enum):
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"


class Grammar(msgspec.Struct, frozen=True):
    """A grammar that the whole answer must match: a JSON schema, a regular expression, or a grammar
    in llguidance's dialect of Lark."""

    kind: GrammarKind
    text: str
    preface: str = ""
    """Text before the match, such as a thought: Lark rules, the first of this name."""
    calls: str = ""
    """Alternative to the match: a Lark grammar of tool calls."""


class TokenRules(msgspec.Struct, frozen=True, array_like=True):
    """Tokens that a request biases, allows and bans. Few requests have any, so these fields are a
    struct of their own."""

    bias: tuple[tuple[int, float], ...] = ()
    """Pairs of a token id and a number that is added to its logit."""
    allowed: tuple[int, ...] | None = None
    """The only tokens that may be sampled; None allows all."""
    banned: tuple[tuple[int, ...], ...] = ()
    """Token sequences that the output must not contain."""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sampling parameters. The router validates them; the engine trusts them.

    `temperature` 0 means greedy. `seed` is always set (the router chooses one if the client did
    not), so that a sequence continues on another worker as it would have on the first. `logprobs`
    None means none are requested, 0 the sampled token's, n also the n best alternatives'. A
    `grammar` takes precedence over settings that would keep an answer from following it or from
    ending.
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
    """Like `logprobs`, for the prompt's tokens; sent with the answer's first token."""
    grammar: Grammar | None = None
    rules: TokenRules | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Natural log-probability of a sampled token and of the best alternatives, best first.

    Computed from the raw distribution: after penalties, values would not be comparable across
    requests.
    """

    logprob: float
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()
