"""One worker's settings; the defaults serve the bundled model on a laptop."""

from __future__ import annotations

import enum

import msgspec

from runtime.address import Port
from runtime.tls import MutualTls


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
    """host:port of the fleet ports to announce to; of a name, all addresses that it has."""
    worker_id: str | None = None
    """Drawn when None."""
    host: str = "127.0.0.1"
    """Address to listen on, and under which routers and peers reach this worker."""
    port: Port = 0
    """For routers and other workers; 0 takes any free one."""
    metrics_port: Port | None = None
    """Where /metrics, /health and /ping of this worker are, without TLS or keys; 0 takes any free
    port, None has none."""
    tls: MutualTls | None = None
    """Certificates of the sessions with routers and other workers; None: without TLS."""
    runner: RunnerKind = RunnerKind.TORCH
    """What computes tokens: the model, or arithmetic that stands in for one in tests."""
    stamp: int = 0
    """Arithmetic runner only: what its tokens leave modulo 4."""
    width: int = 1
    """Arithmetic runner only: how often each number is stored, so that blocks become large."""
    num_layers: int = 1
    """Arithmetic runner only: in how many layers."""
    step_s: float = 0.0
    """Arithmetic runner only: steps end at multiples of this; 0 at once."""
    tensor_parallel_size: int = 1
    """Ranks among which the model is divided, each a process on this machine with a GPU of its own:
    the first so many that are visible; or all on the CPU. It must divide the model's heads and its
    feed-forward's width. KV heads that are fewer are copied."""
    rank_silence_s: float = 15.0
    """How long a rank may stand still until the worker ends, as it does when a rank dies; 15 s are
    also what routers allow a whole worker. A long step, or a model that is read, is no silence."""
    device: str = "auto"
    """"auto", "cpu", "cuda", or "cuda:N", which several ranks cannot have."""
    dtype: str = "auto"
    """"auto", "float32", "bfloat16" or "float16"; "auto" on a CPU computes in float32."""
    cache_dtype: str = "auto"
    """Of the KV cache: "auto", which is what is computed in, "float32", "bfloat16" or
    "float8_e4m3fn"."""
    attention: str = "auto"
    """On a GPU "flashinfer", "torch", or "auto": the first of the two that is installed."""
    graphs: str = "start"
    """When decode steps on a GPU are recorded as CUDA graphs: at the "start", "lazy", as their
    sizes come up, or not at all, "off"."""
    threads: int | None = None
    """CPU threads of the model, which its ranks share; None takes torch's default, and of workers
    that `up` starts without Ray each has half of the machine's cores."""
    most_threads: int | None = None
    """Threads for a step while cores of the machine are idle, if more than `threads`; None takes
    all cores where `threads` has the default of `up` without Ray, and elsewhere `threads`."""
    deterministic: bool = False
    """No bit of an answer depends on what else is computed, or how; needs compiled kernels."""
    block_size: int = 16
    """Tokens in a block of the KV cache."""
    cache_bytes: int | None = None
    """For the KV cache on the device of each rank: a worker of several takes as many times this."""
    cache_fraction: float = 0.2
    """Share of each device's free memory for the KV cache, where `cache_bytes` is None."""
    host_cache_bytes: int = 0
    """Host memory for blocks that do not fit into the KV cache any more; 0 does without."""
    max_model_len: int | None = None
    """Longest sequence in tokens; None takes the model's own, with what its RoPE scaling extends it
    to. Routers hear of it: requests may be as long as the smallest of a model's workers says."""
    chunk_tokens: int = 512
    """Most prompt tokens that a step computes."""
    max_sequences: int = 256
    """Most sequences that run at a time."""
    tpot_target_s: float | None = None
    """Time per output token that prompts, computed beside decoding sequences, may not push steps
    beyond; None lets them take a chunk, or on decode workers 128 tokens."""
    step_timeout_s: float = 300.0
    """Longest that a step may take, the first ones too; a worker whose step takes longer ends, for
    a device hangs that computes it, or a rank."""
    drain_timeout_s: float = 30.0
    """How long sequences may take to end after the first signal."""
    overlap: bool = True
    """Whether blocks leave while their prompt is computed; False shows what that is worth."""
    transport: str = "nixl"
    """"nixl", or "ucx" (the optional extra), or "memory" within one process."""
    ucx_env: dict[str, str] = {}
    """UCX settings for the NIXL transport, such as UCX_NET_DEVICES or UCX_TLS."""
    nixl_backend: str = "UCX"
    """The NIXL plugin that carries blocks; both workers of a link need the same. Of those in NIXL's
    wheel, UCX serves all fabrics, and LIBFABRIC some, where its libraries are installed."""
    nixl_backend_options: dict[str, str] = {}
    """The plugin's own, such as UCX's num_workers."""
    nixl_telemetry: bool = False
    """Have NIXL time every write, which tandem_link_writes and its siblings then tell; costs 2 us a
    write, and a thread that sleeps for each end of a link."""
    max_bytes_in_flight: int = 256 * 1024 * 1024
    """Most KV bytes under way to one peer at a time."""
    slow_link_bytes_per_s: float | None = None
    """A link that gives less is reported as a warning; None goes by the kind of link."""
    transfer_deadline_s: float = 30.0
    """How long grant, writes and verdict may take after the end of prefill."""
    handoff_deadline_s: float = 300.0
    """How long granted blocks wait for a commit."""
    fence_deadline_s: float = 5.0
    """How long a source may take to say that its writes are over, before its link is torn down,
    and then a process that could still write by itself to end, before it is killed."""
    staging_bytes: int = 256 * 1024 * 1024
    """Memory in which blocks are converted for workers with another KV layout."""
