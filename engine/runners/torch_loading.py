"""From a checkpoint directory to a runner: what is read, onto which device, in which precision."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from engine.attention.choice import choose_attention
from engine.attention.flashinfer_available import AttentionShape
from engine.device.collective import Collective, SingleRank
from engine.device.device import Precision, choose_device, choose_precision
from engine.device.kernel_caches import set_kernel_caches
from engine.device.threads import Threads
from engine.device.triton_available import SCALED_CAPABILITY, uses_triton
from engine.errors import ConfigError
from engine.model.config import ModelConfig, read_config
from engine.model.model_part import ModelPart, model_part
from engine.model.parameters import Parameters, allocate_part, part_targets
from engine.model.transformer import Transformer
from engine.model.vocabulary import SharedVocabulary
from engine.model.weights import Progress, find_weights, load_weights, model_hash
from engine.runners.cache_shape import part_layout
from engine.runners.torch_runner import StepSettings, TorchRunner
from wire.layout import SCALED_DTYPES

log = logging.getLogger(__name__)


def load_torch_runner(
    model_dir: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    cache_dtype: str = "auto",
    block_size: int = 16,
    max_model_len: int | None = None,
    threads: int | None = None,
    most_threads: int | None = None,
    deterministic: bool = False,
    attention: str = "auto",
    graphs: str = "start",
    max_sequences: int = 256,
    chunk_tokens: int = 2048,
    progress: Progress | None = None,
    collective: Collective | None = None,
) -> TorchRunner:
    """Read a Hugging Face checkpoint directory onto a device.

    `device` is "auto" (a GPU if there is one), "cpu" or "cuda:N"; `dtype` is "auto",
    "float32", "bfloat16" or "float16", and `cache_dtype` "auto", which is what is computed in,
    "float32", "bfloat16" or "float8_e4m3fn"; `threads` sets torch's for the whole process, and
    up to `most_threads` compute while cores are idle. With `deterministic`, no bit of
    an answer depends on what else is in the batch. On a GPU `attention` is "flashinfer",
    "torch", or "auto", the first of them that can serve, and decode steps of up to
    `max_sequences` are recorded as graphs: "start", "lazy", when a size is first needed, or
    "off"; memory is kept for steps that compute up to `chunk_tokens` tokens of prompts beside
    them. With a `collective` this is one rank of several, each of which loads its part; the
    collective is used when the cache is allocated, and not before.
    Raises CheckpointError for the directory, ConfigError for the other arguments.
    """
    if threads is not None:
        _set_num_threads(threads)
    directory, chosen = Path(model_dir), choose_device(device)
    if chosen.type == "cuda":
        set_kernel_caches()
    config, weights = read_config(directory), find_weights(directory)
    ranks = collective or SingleRank()
    part = model_part(config, ranks.rank, ranks.size)
    precision = _choose_precision(dtype, cache_dtype, chosen, weights.dtype, part)
    length = _choose_max_model_len(config, max_model_len)
    shape = AttentionShape(precision.compute, precision.cache, config.head_size)
    kernels = choose_attention(attention, chosen, shape)
    by_itself = attention == "auto"
    settings = StepSettings(kernels, graphs, max_sequences, chunk_tokens, or_torch=by_itself)
    layout = part_layout(part, block_size, precision.cache)
    parameters = allocate_part(part, precision.weights, chosen, ranks)
    load_weights(weights, part_targets(part, parameters), progress, part.cut)
    model = _make_model(part, parameters, chosen, precision, ranks, deterministic=deterministic)
    model.take_idle_cores(Threads(torch.get_num_threads(), most_threads))
    return TorchRunner(
        config,
        model,
        layout,
        chosen,
        model_hash=model_hash(weights, config),
        max_model_len=length,
        settings=settings,
        part=part,
        collective=ranks,
    )


def _make_model(
    part: ModelPart,
    parameters: Parameters,
    device: torch.device,
    precision: Precision,
    ranks: Collective,
    *,
    deterministic: bool,
) -> Transformer:
    shared = part.size > 1
    return Transformer(
        part.config,
        parameters,
        device,
        compute=precision.compute,
        native=not _is_scaled(precision) or _kernels_know_scales(device),
        deterministic=deterministic,
        vocabulary=SharedVocabulary(parameters, part, ranks) if shared else None,
        shared=shared,
    )


def _is_scaled(precision: Precision) -> bool:
    """The cache's values have scales."""
    return str(precision.cache).removeprefix("torch.") in SCALED_DTYPES


def _kernels_know_scales(device: torch.device) -> bool:
    """Compiled kernels for CPUs know none, nor do older GPUs; those are told of in the log."""
    known = uses_triton(device, scaled=True)
    if device.type == "cuda" and not known:
        log.warning(
            "PyTorch's operations serve, at a fraction of the speed: kernels for a cache of 8 bits "
            "need Triton and compute capability %d.%d; this GPU has %d.%d",
            *SCALED_CAPABILITY,
            *torch.cuda.get_device_capability(device),
        )
    return known


def _choose_precision(
    dtype: str, cache_dtype: str, device: torch.device, stored: torch.dtype, part: ModelPart
) -> Precision:
    """A shared model has no compiled kernels: see Transformer."""
    if part.size == 1:
        return choose_precision(dtype, cache_dtype, device, stored)
    return choose_precision(dtype, cache_dtype, device, stored, has_kernels=lambda: False)


def _choose_max_model_len(config: ModelConfig, wanted: int | None) -> int:
    if wanted is None:
        return config.max_model_len
    if not 1 <= wanted <= config.max_model_len:
        raise ConfigError(
            f"max_model_len {wanted}: this model supports 1 to {config.max_model_len} tokens"
        )
    return wanted


def _set_num_threads(threads: int) -> None:
    if threads < 1:
        raise ConfigError(f"threads {threads}: expected at least 1")
    torch.set_num_threads(threads)
