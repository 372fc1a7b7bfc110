"""A request inside the router: as a door received it, as workers serve it, and its answer."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from router.placing.placement_request import Split
from router.requests.prompts import Constraint, Prompt, ToolChoice
from wire.messages import FinishReason
from wire.sampling import SamplingParams, TokenLogprob
from wire.traits import RequestTraits


class RequestDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A client's request, not yet checked. None means that the client left a field open."""

    request_id: str
    prompt: Prompt | None
    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    """0 means all tokens, whatever the defaults are."""
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    n: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    tells_prompt: bool = False
    """The response contains parts of the prompt, so that max_tokens may be 0."""
    traits: RequestTraits = RequestTraits()
    has_priority: bool = False
    """The client asked for its priority; otherwise its key decides."""
    ttft_target_s: float | None = None
    tpot_target_s: float | None = None
    timeout_s: float | None = None
    trace_id: str | None = None
    split: Split | None = None

    tools: tuple[dict[str, Any], ...] = ()
    """In OpenAI's shape, {"type": "function", "function": {"name": …}}."""
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    constraint: Constraint | None = None
    """From response_format, structured_outputs and the like."""


class Reasoning(enum.Enum):
    """Whether an answer begins with reasoning between marks."""

    NONE = "none"  # the whole text is the answer
    POSSIBLE = "possible"  # it may begin with reasoning
    BEGUN = "begun"  # the prompt has opened the reasoning
    CLOSED = "closed"  # the prompt has closed it: the answer follows


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that passed validation: everything is in range and the prompt is tokenized."""

    request_id: str
    prompt_tokens: tuple[int, ...]
    sampling: SamplingParams
    stop: tuple[str, ...]
    timeout_s: float
    n: int = 1
    """Number of answers."""
    prompt_only: bool = False
    """Only the prompt's log-probabilities are wanted, and no answer."""
    include_stop: bool = False
    """A stop string or token that ends the answer is part of its text."""
    skip_special_tokens: bool = True
    """Special tokens leave no text."""
    traits: RequestTraits = RequestTraits()
    ttft_target_s: float | None = None
    tpot_target_s: float | None = None
    trace_id: str | None = None
    """Id of the client's trace, if it names one."""
    split: Split | None = None
    """Overrides the router's setting for this request."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tools that the answer may call."""
    tool_choice: ToolChoice | None = None
    """None without tools."""
    parallel_tool_calls: bool = True
    reasoning: Reasoning = Reasoning.NONE
    shown_tokens: frozenset[int] = frozenset()
    """Special tokens that are part of the answer's text, whatever becomes of others."""

    @property
    def num_tokens(self) -> int:
        """Maximum number of tokens of the sequence."""
        return len(self.prompt_tokens) + self.sampling.max_tokens


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class TransferReport(msgspec.Struct, frozen=True, kw_only=True):
    num_bytes: int
    num_blocks: int
    skipped_blocks: int
    transfer_s: float
    exposed_s: float
    hidden_s: float


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in seconds; None for a stage that did not happen or was not reported."""

    queue_s: float | None = None
    prefill_s: float | None = None
    transfer: TransferReport | None = None
    decode_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an answer, carried by the last delta of a stream."""

    finish: FinishReason
    stop_text: str | None
    stop_token: int | None
    usage: Usage
    timing: Timing
    prefill_worker_id: str
    decode_worker_id: str
    attempts: int
    tool_calls: bool = False
    """The answer ended with calls of tools."""


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A part of one tool call: id and name come once and first, then parts of the arguments."""

    index: int
    """Number of the call within the answer, from 0."""
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """One message to the client: new text, and the tokens since the last message."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    index: int = 0
    """Number of the answer that it continues, from 0."""
    reasoning: str = ""
    """New reasoning text, where the model's format separates it from the answer."""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    prompt_tokens: tuple[int, ...] | None = None
    """Token ids of the prompt, in the first delta of each answer."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Log-probabilities of the prompt's tokens but the first, in the first delta of all."""
    ending: Ending | None = None
