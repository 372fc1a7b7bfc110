"""One worker's settings; the defaults serve the bundled model on a laptop."""

from __future__ import annotations

import enum

import msgspec

from engine.runners.played_costs import PlayedCosts
from runtime.address import Port
from runtime.tls import MutualTls


class RunnerKind(enum.Enum):
    TORCH = "torch"
    ARITHMETIC = "arithmetic"


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a worker but its role, which is the command that starts it."""

    model: str
    """A Hugging Face model directory; for the arithmetic runner only the name under which it
    serves."""
    model_name: str | None = None
    """The name that clients use; the directory's name when None."""
    routers: tuple[str, ...] = ()
    """host:port of the routers' fleet ports; a name stands for all of its addresses."""
    worker_id: str | None = None
    """The worker's name in logs and metrics; a random one when None."""
    host: str = "127.0.0.1"
    """Address to listen on, and under which routers and peers reach this worker."""
    port: Port = 0
    """Port for routers and other workers; 0 takes any free one."""
    metrics_port: Port | None = None
    """Port of /metrics, /health and /ping, without TLS or keys; 0 takes any free one, None opens
    none."""
    tls: MutualTls | None = None
    """Certificates of the sessions with routers and other workers; None: without TLS."""
    runner: RunnerKind = RunnerKind.TORCH
    """What computes tokens: the model, or arithmetic that stands in for one in tests."""
    stamp: int = 0
    """Arithmetic runner only: its tokens equal this modulo 4."""
    width: int = 1
    """Arithmetic runner only: how often each number is stored, to make blocks large."""
    num_layers: int = 1
    """Arithmetic runner only: number of layers."""
    step_s: float = 0.0
    """Arithmetic runner only: steps end at multiples of this; 0 at once."""
    step_costs: PlayedCosts | None = None
    """Arithmetic runner only: what steps take by their work, instead of `step_s`."""
    tensor_parallel_size: int = 1
    """Ranks among which the model is divided, each a process on this machine with a GPU of its own,
    the visible ones in order; or all on the CPU. It must divide the model's heads and its
    feed-forward's width. With fewer KV heads than ranks, KV heads are replicated."""
    rank_silence_s: float = 15.0
    """How long a rank may miss heartbeats until the worker ends, as it does when a rank ends;
    routers allow a whole worker 15 s, too. A long step or a model's loading is no silence."""
    device: str = "auto"
    """"auto", "cpu", "cuda", or "cuda:N", which several ranks cannot have."""
    dtype: str = "auto"
    """"auto", "float32", "bfloat16" or "float16"; "auto" on a CPU computes in float32."""
    cache_dtype: str = "auto"
    """The KV cache's type: "auto", the one that is computed in, "float32", "bfloat16" or
    "float8_e4m3fn"."""
    attention: str = "auto"
    """On a GPU "flashinfer", "torch", or "auto": FlashInfer where its tested version is installed,
    can compute this model and can be compiled here. The log says what was chosen, and why."""
    graphs: str = "start"
    """When decode steps on a GPU are recorded as CUDA graphs: at the "start", "lazy", as their
    sizes come up, or not at all, "off"."""
    threads: int | None = None
    """CPU threads of the model, which its ranks share; None takes torch's default, or half of the
    machine's cores for each worker that `up` starts without Ray."""
    most_threads: int | None = None
    """Threads for a step while cores of the machine are idle, if more than `threads`; None takes
    all cores where `threads` has the default of `up` without Ray, and elsewhere `threads`."""
    deterministic: bool = False
    """Batch-invariant: no bit of an answer depends on what else is computed, or how; needs compiled
    kernels."""
    block_size: int = 16
    """Tokens in a block of the KV cache."""
    cache_bytes: int | None = None
    """Size of the KV cache on each rank's device: a worker of several ranks takes a multiple."""
    cache_fraction: float | None = None
    """Share of each device's free memory for the KV cache, where `cache_bytes` is None; on a GPU of
    what its largest step leaves, which is tried at start. None takes 0.2 on a CPU, and 0.85 on a
    GPU, or its part of that where `num_gpus` is less than 1."""
    host_cache_bytes: int = 0
    """Host memory for blocks that are evicted from the KV cache; 0 does without."""
    max_model_len: int | None = None
    """Longest sequence in tokens; None takes the model's own limit, extended by RoPE scaling where
    the model has it. Routers accept requests up to the smallest limit of a model's workers."""
    chunk_tokens: int | None = None
    """Most prompt tokens that a step computes. None takes 512 on a CPU, and 2048 on a GPU, but on
    prefill workers 4096 from 32 GiB of its memory on, and 8192 from 64 GiB on."""
    mixed_chunk_tokens: int | None = None
    """Most prompt tokens of a step with decoding sequences, where `tpot_target_s` is None, and no
    more than `chunk_tokens`. None takes those on prefill workers, and on decode workers 128, or 512
    on a GPU."""
    max_sequences: int = 256
    """Most sequences in a batch."""
    tpot_target_s: float | None = None
    """Target for the time per output token: beside decoding sequences, a step computes as many
    prompt tokens as it allows, up to `chunk_tokens`; None allows `mixed_chunk_tokens`."""
    step_timeout_s: float = 300.0
    """Longest that a step may take, the first ones too; a worker whose step takes longer ends,
    since its device or one of its ranks hangs."""
    drain_timeout_s: float = 30.0
    """How long running sequences may take to end after SIGTERM or SIGINT."""
    overlap: bool = True
    """Whether blocks are sent while their prompt is computed; False to measure what that gains."""
    transport: str = "nixl"
    """"nixl", or "ucx" (the optional extra), or "memory" within one process."""
    ucx_env: dict[str, str] = {}
    """UCX settings for the NIXL transport, such as UCX_NET_DEVICES or UCX_TLS, to which cuda_copy
    is added beside a GPU. For blocks on a GPU UCX_MEMTYPE_CACHE is n by default."""
    nixl_backend: str = "UCX"
    """The NIXL plugin that transfers blocks; both workers of a link need the same. Of those in
    NIXL's wheel, UCX serves all fabrics, LIBFABRIC some, where its libraries are installed."""
    nixl_backend_options: dict[str, str] = {}
    """The plugin's own options, such as UCX's num_workers."""
    nixl_telemetry: bool = False
    """Have NIXL time every write, for the metric tandem_link_writes and its siblings; costs 2 us a
    write, and a sleeping thread for each end of a link."""
    max_bytes_in_flight: int = 256 * 1024 * 1024
    """Most bytes of KV cache in flight to one peer at a time."""
    slow_link_bytes_per_s: float | None = None
    """Throughput below which a link is reported as slow; None goes by the kind of link."""
    transfer_deadline_s: float = 30.0
    """Timeout of a handoff's grant, writes and verdict, from the end of prefill."""
    handoff_deadline_s: float = 300.0
    """Timeout of granted blocks that wait for a commit."""
    fence_deadline_s: float = 5.0
    """How long a source may take to say that its writes are over, before its link is torn down;
    and then a process with direct access to end, before it is killed."""
    staging_bytes: int = 256 * 1024 * 1024
    """Staging memory, in which blocks are converted for workers with another KV layout."""
