"""The status of a router's models, as the admin endpoint tells it and `tandem status` shows it."""

from __future__ import annotations

import msgspec

from router.roles.attainment import Attainment
from router.roles.bottleneck import Bottleneck
from router.roles.scaling import WantedWorkers

STATUS_FORMAT = 1
"""Version of the JSON; raised when a field changes its meaning. New fields do not raise it."""


class LinkView(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's link to another worker."""

    destination: str
    bytes_per_s: float
    """Measured when the link was made."""
    latency_s: float
    kind: str
    slow: bool
    """Far slower than links of its kind should be."""
    used_bytes_per_s: float = 0.0
    """Handoffs over the last seconds."""
    exposed_s: float | None = None
    """Mean time of a recent handoff that prefill did not hide; None if there was none."""


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker's steps take, as it has measured, and what it holds; `tandem simulate
    --from-status` gives simulated workers the same."""

    step_s: float | None = None
    """A step's fixed part; like the next ones in seconds, and None until enough of it was done."""
    sequence_s: float | None = None
    context_token_s: float | None = None
    prompt_token_s: float | None = None
    prompt_pair_s: float | None = None
    pool_tokens: int
    """Capacity of its KV cache."""
    token_bytes: int
    """Size of its KV cache for one token."""
    max_model_len: int


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """One worker, as it reported within the last second."""

    worker_id: str
    pool_role: str
    """Role with which it started."""
    role: str
    """Role in which it runs now."""
    state: str
    num_running: int = 0
    num_waiting: int = 0
    waiting_tokens: int = 0
    """Prompt tokens still to be computed."""
    kv_used: float = 0.0
    """Share of its KV blocks in use, 0 to 1."""
    kv_cached: float = 0.0
    """Share of its KV blocks that are free, and hold cached prefixes."""
    busy: float | None = None
    """Share of the last seconds in which a step ran; None for a new worker."""
    step_s: float | None = None
    """Mean duration of a step over the last seconds."""
    prefilled_per_s: float = 0.0
    generated_per_s: float = 0.0
    steps: StepView | None = None
    """None until it has reported."""
    links: tuple[LinkView, ...] = ()


class QueueView(msgspec.Struct, frozen=True, kw_only=True):
    """Work that waits."""

    num_in_router: int
    """Requests that wait in this router."""
    num_prompts: int
    """Prompts that are not completely computed, at workers."""
    prompt_tokens: int
    """Tokens of these that are not computed."""
    prompt_s: float
    """Time in which the workers that compute prompts would have computed them."""


class TrafficView(msgspec.Struct, frozen=True, kw_only=True):
    """Means over recent requests, in tokens and seconds."""

    uncached_tokens: float
    cached_tokens: float
    answer_tokens: float
    tpot_target_s: float | None


class ControllerView(msgspec.Struct, frozen=True, kw_only=True):
    """A change that the role controller made."""

    seconds_ago: float
    text: str


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One model: its workers in numbers, and what they mean in `sentences`."""

    name: str
    sentences: tuple[str, ...] = ()
    workers: tuple[WorkerView, ...] = ()
    bottleneck: Bottleneck | None = None
    """None until requests have come and workers have told what their steps take."""
    attainment: Attainment
    queues: QueueView
    traffic: TrafficView | None = None
    """None before the first request."""
    controller: tuple[ControllerView, ...] = ()
    """Last changes of roles, newest first."""
    wanted: WantedWorkers | None = None
    """Workers that the model wants; None until requests have come."""


class StatusBody(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of GET /status."""

    format: int = STATUS_FORMAT
    router_id: str
    version: str
    draining: bool = False
    models: tuple[ModelStatus, ...]
