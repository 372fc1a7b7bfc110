"""The router's settings, with defaults that work on a laptop."""

from __future__ import annotations

import enum

import msgspec

from router.placing.placement_request import Split
from runtime.address import Port
from runtime.tls import MutualTls, ServerTls

MIB = 1024 * 1024


class GenerationConfig(enum.Enum):
    """Whether defaults for sampling are read from a model's generation_config.json."""

    MODEL = "model"
    IGNORE = "ignore"


class Roles(enum.Enum):
    """Whether workers keep the role of their pool."""

    FIXED = "fixed"
    FOLLOW = "follow"


class SamplingDefaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Default sampling parameters for requests that omit them; None: the API's default."""

    temperature: float | None = None
    """Sampling temperature; 0 always takes the likeliest token."""
    top_p: float | None = None
    """Sample from the likeliest tokens whose probabilities sum to this."""
    top_k: int | None = None
    """Sample from this many of the likeliest tokens."""
    min_p: float | None = None
    """Exclude tokens below this fraction of the likeliest token's probability."""
    repetition_penalty: float | None = None
    """Factor over 1 makes tokens of the prompt and the answer less likely."""
    presence_penalty: float | None = None
    """Subtracted from the logits of tokens that the answer contains."""
    frequency_penalty: float | None = None
    """Subtracted from the logits of tokens for each time that the answer contains them."""


class ServedModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one served model; None takes the router's own setting."""

    path: str
    """Hugging Face model directory, from which the router reads tokenizer, chat template and
    config."""
    sampling: SamplingDefaults = SamplingDefaults()
    """Default sampling parameters; they override the model's generation_config.json."""
    generation_config: GenerationConfig | None = None
    """Overrides `router.generation_config`."""
    tool_parser: str | None = None
    """Overrides `router.tool_parser`."""
    reasoning_parser: str | None = None
    """Overrides `router.reasoning_parser`."""
    default_max_tokens: int | None = None
    """Overrides `router.default_max_tokens`."""
    split: Split | None = None
    """Overrides `router.split`."""
    ttft_target_s: float | None = None
    """Overrides `router.ttft_target_s`."""
    tpot_target_s: float | None = None
    """Overrides `router.tpot_target_s`."""
    max_waiting: int | None = None
    """Overrides `router.max_waiting`."""
    max_queued: int | None = None
    """Overrides `router.max_queued`."""


class RouterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a router. A port of 0 is any free one; `RouterServer.start` returns the actual
    addresses."""

    models: dict[str, ServedModelConfig]
    """The served models by name, as clients and workers refer to them."""
    host: str = "127.0.0.1"
    """Address to listen on; "auto" in a cluster's file is the address of the node."""
    grpc_port: Port = 0
    """Port of the public gRPC API."""
    http_port: Port = 0
    """Port of the public HTTP API."""
    fleet_port: Port = 0
    """Port at which workers announce themselves."""
    share_ports: bool = False
    """Whether other routers on this machine may share the ports of the public APIs."""
    join_ports: bool = False
    """With `share_ports`: whether routers already listen there. Otherwise the ports must be free,
    so that two clusters never share them."""

    keys_file: str | None = None
    """File of API keys, which all requests but health checks then need; see docs/security.md."""
    door_tls: ServerTls | None = None
    """Certificates of the public gRPC and HTTP servers; None: without TLS."""
    tls: MutualTls | None = None
    """Certificates of the fleet port and of sessions with workers; None: without TLS."""
    admin_host: str = "127.0.0.1"
    """Address of the admin port."""
    admin_port: Port | None = None
    """Port of /roles, and of /metrics, /load and /status, which then leave the public HTTP port;
    None keeps those three there and serves no /roles. Beyond loopback it uses `door_tls`, and needs
    keys with `admin: true` if keys are required."""
    body_timeout_s: float = 60.0
    """Timeout for the body of an HTTP request to arrive."""

    max_message_bytes: int = 4 * MIB
    """Maximum size of a gRPC request."""
    max_body_bytes: int = 10 * MIB
    """Maximum size of an HTTP request body."""
    max_unread_bytes: int = 2 * MIB
    """Maximum memory for answers to one request that its client has not read, some 50,000 tokens;
    beyond it the request is aborted."""
    max_unread_total_bytes: int = 64 * MIB
    """Maximum memory for unread answers of all requests; beyond it the request with the most is
    aborted."""
    max_waiting: int = 1024
    """Maximum number of running and waiting answers per model; further requests are refused with a
    time to retry."""
    max_n: int = 64
    """Maximum number of answers to one prompt (`n`)."""
    max_choices: int = 256
    """Maximum number of answers in one HTTP request, which may have several prompts."""
    trust_request_templates: bool = False
    """Whether requests may bring a chat template, which is a program that runs in a sandbox."""
    grpc_reflection: bool = True
    """Whether the gRPC server offers reflection."""
    tool_parser: str = "auto"
    """Format of the model's tool calls: "hermes" (also Qwen), "qwen3_coder", "deepseek_v3",
    "deepseek_v31", "nemotron", "llama3_json", "mistral" or "pythonic"; "auto" derives it from the
    chat template (docs/tools.md)."""
    reasoning_parser: str = "auto"
    """Format of the model's reasoning: "think" for <think>…</think>, "mistral" for
    [THINK]…[/THINK], or "none"; "auto" derives it from the chat template."""
    max_grammar_bytes: int = 64 * 1024
    """Maximum size of a JSON schema, regular expression or grammar, and of all tools' schemas
    together if a call is required."""
    grammar_timeout_s: float = 5.0
    """Timeout for compiling a grammar; the first one also waits for the tokenizer."""
    generation_config: GenerationConfig = GenerationConfig.MODEL
    """"model": defaults of temperature, top_p, top_k, min_p and repetition_penalty, and the limit
    max_new_tokens, come from the model's generation_config.json, as with vLLM; "ignore": the API's
    defaults. Its eos_token_id is used in any case."""
    default_max_tokens: int = 256
    """Default maximum length of an answer in tokens; less if the context is full."""
    request_timeout_s: float = 600.0
    """Maximum duration of a request, whatever the client's own deadline."""
    max_attempts: int = 3
    """Maximum number of attempts before a request fails."""
    drain_timeout_s: float = 30.0
    """Time for running requests to end after the first stop signal."""
    drain_grace_s: float = 2.0
    """Part of that time in which requests are still accepted while health checks fail already, so
    that load balancers notice; less if no HTTP client is connected."""
    join_wait_s: float = 1.0
    """Time that a request waits for a worker that can serve it."""
    open_timeout_s: float = 5.0
    """Timeout for opening a session to a worker."""
    report_wait_s: float = 0.2
    """Time that the last message of a stream waits for workers' reports of stage durations."""
    roles: Roles = Roles.FIXED
    """Workers keep their pools' roles, "fixed", or a worker changes between prefill and decode
    while it serves, "follow": as the requests with a TPOT target need it."""
    worker_start_s: float = 60.0
    """Time in which a worker starts and loads its weights: so long are workers kept that may be
    wanted again; see docs/placement.md."""
    scale_down_after_s: float = 60.0
    """Time for which fewer workers have to be enough before one is wanted less; `worker_start_s` if
    that is longer."""
    split: Split = Split.AUTO
    """Whether prefill and decode run on different workers: "auto" where that is faster; or
    "always", "never"."""
    ttft_target_s: float | None = None
    """Default target for the time to first token; None has none."""
    tpot_target_s: float | None = None
    """Default target for the time per output token; None has none."""
    max_queued: int = 2048
    """Maximum number of requests per model that wait in the router; see
    router.queueing.admission."""
    fetch_min_tokens: int = 256
    """Minimum number of tokens by which another worker's cached prefix must be longer to be copied
    to the prefill worker, as after a conversation's turn was decoded elsewhere."""
    fetch_wait_s: float = 2.0
    """Timeout for such a copy; afterwards the tokens are computed."""
    index_max_entries: int = 1_000_000
    """Maximum number of (block, worker) entries in each model's prefix index."""

    def for_model(self, name: str) -> RouterConfig:
        """The settings for one model, with its overrides applied."""
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
