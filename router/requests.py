"""A request inside the router: as a door heard it, as the workers serve it, and what comes back."""

from __future__ import annotations

import secrets

import msgspec

from wire.messages import FinishReason
from wire.sampling import SamplingParams, TokenLogprob


class TextPrompt(msgspec.Struct, frozen=True):
    text: str


class ChatMessage(msgspec.Struct, frozen=True):
    role: str
    content: str


class ChatPrompt(msgspec.Struct, frozen=True):
    messages: tuple[ChatMessage, ...]


class TokenPrompt(msgspec.Struct, frozen=True):
    ids: tuple[int, ...]


Prompt = TextPrompt | ChatPrompt | TokenPrompt


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
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    n: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    cache_salt: str | None = None
    timeout_s: float | None = None


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that passed validation: everything is in range and the prompt is tokenized."""

    request_id: str
    prompt_tokens: tuple[int, ...]
    sampling: SamplingParams
    stop: tuple[str, ...]
    cache_salt: bytes
    timeout_s: float

    @property
    def num_tokens(self) -> int:
        """Most tokens that the sequence can have."""
        return len(self.prompt_tokens) + self.sampling.max_tokens


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
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
    transfer: Transfer | None = None
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


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What one message to the client carries: new text, and the tokens made since the last one."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    ending: Ending | None = None


def draw_request_id() -> str:
    """Unique among all routers."""
    return secrets.token_hex(12)
