"""A request inside the router: as a door heard it, as the workers serve it, and what comes back."""

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
    """What a client asked for, not yet checked. None means that the client said nothing."""

    request_id: str
    prompt: Prompt | None
    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    """0 is all of them, whatever the defaults say."""
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
    """Something of the prompt is told, so that max_tokens may be 0."""
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
    """Of response_format, structured_outputs and the like."""


class Reasoning(enum.Enum):
    """Whether an answer has a thought before it, in marks of its own."""

    NONE = "none"  # all of it is the answer
    POSSIBLE = "possible"  # it may begin with one
    BEGUN = "begun"  # the prompt has opened it
    CLOSED = "closed"  # the prompt has closed one: the answer follows


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
    """Of the answer nothing is told: what is asked for is the prompt's."""
    include_stop: bool = False
    """A stop string or token that ends the answer is part of its text."""
    skip_special_tokens: bool = True
    """Special tokens leave no text."""
    traits: RequestTraits = RequestTraits()
    ttft_target_s: float | None = None
    tpot_target_s: float | None = None
    trace_id: str | None = None
    """Of the client's trace, where it names one."""
    split: Split | None = None
    """What this request asks for in place of what the router is told to do."""
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
        """Most tokens that the sequence can have."""
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
    """Seconds; None for a stage that did not happen or was not reported."""

    queue_s: float | None = None
    prefill_s: float | None = None
    transfer: TransferReport | None = None
    decode_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """What only the last delta of a stream carries."""

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
    """A piece of one call: its id and name come first and once, then its arguments in pieces."""

    index: int
    """Which call of the answer it is, from 0."""
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What one message to the client carries: new text, and the tokens made since the last one."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    index: int = 0
    """Which of the request's answers it continues."""
    reasoning: str = ""
    """Text that the model thought before its answer, where its format tells the two apart."""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    prompt_tokens: tuple[int, ...] | None = None
    """In the first delta of each answer."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the prompt's tokens but the first, in the first delta of the first answer."""
    ending: Ending | None = None
