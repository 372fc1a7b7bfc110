"""The router's settings, with defaults that work on a laptop."""

from __future__ import annotations

import enum

import msgspec

from router.placing.placement_request import Split
from runtime.address import Port
from runtime.tls import MutualTls, ServerTls

MIB = 1024 * 1024


class GenerationConfig(enum.Enum):
    """Whether sampling defaults are read from a model's generation_config.json."""

    MODEL = "model"
    IGNORE = "ignore"


class SamplingDefaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How tokens are chosen where a request leaves that open; None is as the APIs have it."""

    temperature: float | None = None
    """0 always takes the likeliest token."""
    top_p: float | None = None
    """Only the likeliest tokens, of so much probability together."""
    top_k: int | None = None
    """Only so many of the likeliest tokens."""
    min_p: float | None = None
    """Only tokens with at least this share of the likeliest one's probability."""
    repetition_penalty: float | None = None
    """Over 1 makes tokens of the prompt and the answer less likely."""
    presence_penalty: float | None = None
    """Taken from the logits of tokens that the answer has."""
    frequency_penalty: float | None = None
    """The same, for each time that it has them."""


class ServedModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model that a router serves. What is None is as the router's own settings say."""

    path: str
    """A Hugging Face model directory: tokenizer, chat template and config are read, weights not."""
    sampling: SamplingDefaults = SamplingDefaults()
    """What requests that leave it open have; wins over the model's generation_config.json."""
    generation_config: GenerationConfig | None = None
    """In place of `router.generation_config`."""
    tool_parser: str | None = None
    """In place of `router.tool_parser`."""
    reasoning_parser: str | None = None
    """In place of `router.reasoning_parser`."""
    default_max_tokens: int | None = None
    """In place of `router.default_max_tokens`."""
    split: Split | None = None
    """In place of `router.split`."""
    ttft_target_s: float | None = None
    """In place of `router.ttft_target_s`."""
    tpot_target_s: float | None = None
    """In place of `router.tpot_target_s`."""
    max_waiting: int | None = None
    """In place of `router.max_waiting`."""
    max_queued: int | None = None
    """In place of `router.max_queued`."""


class RouterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Port 0 means any free port; the addresses are known after `RouterServer.start`."""

    models: dict[str, ServedModelConfig]
    """By the names under which clients and workers know them."""
    host: str = "127.0.0.1"
    """Address to listen on; in a cluster's file also "auto", which is the node's own."""
    grpc_port: Port = 0
    """For clients."""
    http_port: Port = 0
    """For clients."""
    fleet_port: Port = 0
    """Where workers announce themselves."""
    share_ports: bool = False
    """Whether other routers on this machine may listen on the same ports for clients."""
    join_ports: bool = False
    """With `share_ports`: such routers are there already. Without this the ports must be free, so
    that no two clusters share them."""

    keys_file: str | None = None
    """API keys, which then every request but health checks needs; see docs/security.md."""
    door_tls: ServerTls | None = None
    """Certificates of the gRPC and HTTP doors; None serves without TLS."""
    tls: MutualTls | None = None
    """Certificates of the fleet port and of the sessions with workers; None: without TLS."""
    admin_host: str = "127.0.0.1"
    """Address of the admin port."""
    admin_port: Port | None = None
    """Where /metrics and /load are, and then no more at the HTTP door; None leaves them there.
    Beyond loopback it has the TLS of the doors, and asks for keys with `admin: true`, if keys are
    asked for."""
    body_timeout_s: float = 60.0
    """How long the body of an HTTP request may take to arrive."""

    max_message_bytes: int = 4 * MIB
    """Largest gRPC request."""
    max_body_bytes: int = 10 * MIB
    """Largest HTTP request."""
    max_unread_bytes: int = 2 * MIB
    """How much memory the answers to one request may take because their client does not read; then
    it ends. Some 50,000 tokens."""
    max_unread_total_bytes: int = 64 * MIB
    """The same for all requests together; then the one with the most ends."""
    max_waiting: int = 1024
    """Most answers of one model that are made at a time, or wait; more are refused, with a time to
    return."""
    max_n: int = 64
    """Most answers to one prompt."""
    max_choices: int = 256
    """Most answers in one HTTP request, which may have several prompts."""
    trust_request_templates: bool = False
    """Whether a request may bring a chat template of its own: a program that runs in a sandbox."""
    grpc_reflection: bool = True
    """Whether the gRPC door tells its contract to whoever asks."""
    tool_parser: str = "auto"
    """How the model writes calls of tools: "hermes" (also Qwen), "qwen3_coder", "deepseek_v3",
    "deepseek_v31", "nemotron", "llama3_json", "mistral" or "pythonic"; "auto" looks at the chat
    template (docs/tools.md)."""
    reasoning_parser: str = "auto"
    """How the model thinks before it answers: "think" for <think>…</think>, "mistral" for
    [THINK]…[/THINK], or "none"; "auto" looks at the chat template."""
    max_grammar_bytes: int = 64 * 1024
    """Largest JSON schema, regular expression or grammar, and all tools' schemas together where a
    call must be made."""
    grammar_timeout_s: float = 5.0
    """How long compiling one may take; the first one also waits for the tokenizer."""
    generation_config: GenerationConfig = GenerationConfig.MODEL
    """"model": requests that leave temperature, top_p, top_k, min_p or repetition_penalty open have
    what the model's generation_config.json says, and max_new_tokens there is the longest answer, as
    with vLLM; "ignore": they have what the APIs say. Its eos_token_id counts in any case."""
    default_max_tokens: int = 256
    """Length of an answer when the client names none; less when the context has no room."""
    request_timeout_s: float = 600.0
    """Longest time for a request, whatever the client's own deadline."""
    max_attempts: int = 3
    """How often a request is placed before its failure is the client's to see."""
    drain_timeout_s: float = 30.0
    """How long requests may take to end after the first signal."""
    drain_grace_s: float = 2.0
    """Of that time, how long requests are still served while health checks fail already, for load
    balancers to notice; less when no HTTP client is connected."""
    join_wait_s: float = 1.0
    """How long a request waits for a worker that can serve it."""
    open_timeout_s: float = 5.0
    """How long a worker that announced itself may take to answer."""
    report_wait_s: float = 0.2
    """How long the last message waits for workers to report what their stages took."""
    split: Split = Split.AUTO
    """"auto" computes prompts on other workers than answers where that pays; or "always", "never".
    """
    ttft_target_s: float | None = None
    """Until the first token, for requests that name no target of their own; None has none."""
    tpot_target_s: float | None = None
    """For each further token, likewise."""
    max_queued: int = 2048
    """Most requests of one model that wait for workers whose queues are full; see
    router.queueing.admission."""
    fetch_min_tokens: int = 256
    """How many more tokens of a prompt another worker must have cached, for its blocks to be copied
    to the worker that is to prefill: the next turn of a conversation finds what was decoded."""
    fetch_wait_s: float = 2.0
    """How long such a copy may take; then the tokens are computed instead."""
    index_max_entries: int = 1_000_000
    """Most (block, worker) pairs that the prefix index of each model remembers."""

    def for_model(self, name: str) -> RouterConfig:
        """With what this model has of its own in place of the router's."""
        model = self.models[name]
        own = {
            field: value for field in _OF_ONE_MODEL if (value := getattr(model, field)) is not None
        }
        return msgspec.structs.replace(self, **own)


_OF_ONE_MODEL = sorted({*ServedModelConfig.__struct_fields__} - {"path", "sampling"})


class RouterAddresses(msgspec.Struct, frozen=True, kw_only=True):
    """host:port of each listener."""

    router_id: str
    models: tuple[str, ...]
    grpc: str
    http: str
    fleet: str
    admin: str | None = None
