"""One worker's settings; the defaults serve the bundled model on a laptop."""

from __future__ import annotations

import enum

import msgspec


class RunnerKind(enum.Enum):
    TORCH = "torch"
    ARITHMETIC = "arithmetic"


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything but the role, which is the room that starts the worker."""

    model: str
    """A Hugging Face model directory; for the arithmetic runner only the name under which it
    serves."""
    model_name: str | None = None
    """The name that clients use; the directory's name when None."""
    routers: tuple[str, ...] = ()
    """host:port of the fleet ports to announce to."""
    worker_id: str | None = None
    """Drawn when None."""
    host: str = "127.0.0.1"
    """Address to listen on, and under which routers and peers reach this worker."""
    port: int = 0
    runner: RunnerKind = RunnerKind.TORCH
    stamp: int = 0
    """Arithmetic runner only: what its tokens leave modulo 4."""
    width: int = 1
    """Arithmetic runner only: how often each number is stored, so that blocks become large."""
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    """CPU threads of the model; None takes torch's default."""
    block_size: int = 16
    cache_bytes: int | None = None
    cache_fraction: float = 0.2
    """Share of the device's free memory for the KV cache, where `cache_bytes` is None."""
    max_model_len: int | None = None
    chunk_tokens: int = 512
    max_sequences: int = 256
    transport: str = "nixl"
    """"nixl", or "ucx" (the optional extra), or "memory" within one process."""
    ucx_env: dict[str, str] = {}
    """UCX settings for the NIXL transport, such as UCX_NET_DEVICES or UCX_TLS."""
    max_bytes_in_flight: int = 256 * 1024 * 1024
    """Most KV bytes under way to one peer at a time."""
    slow_link_bytes_per_s: float | None = None
    """A link that gives less is reported as a warning; None goes by the kind of link."""
    transfer_deadline_s: float = 30.0
    """How long grant, writes and verdict may take after the end of prefill."""
    handoff_deadline_s: float = 300.0
    """How long granted pages wait for a commit."""
    fence_deadline_s: float = 5.0
    """How long a source may take to say that its writes are over, before its link is torn down,
    and then a process that could still write by itself to end, before it is killed."""
    staging_bytes: int = 256 * 1024 * 1024
    """Memory in which blocks are converted for workers with another KV layout."""
