"""The runner that computes with PyTorch, on the CPU or on one GPU."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from engine.attention.backend import AttentionBackend, Span
from engine.attention.torch_backend import TorchBackend
from engine.device import LayerMarks, choose_device, choose_dtype
from engine.errors import ConfigError
from engine.memory import allocate_zeros, free_bytes
from engine.model.config import ModelConfig, read_config
from engine.model.parameters import allocate_parameters, checkpoint_targets
from engine.model.transformer import Transformer
from engine.model.weights import Progress, find_weights, load_weights, model_hash
from engine.runner import CacheRegion, OnLayer, Sampled, Slice
from engine.sampler.sampler import Sampler
from engine.sequence import Sequence
from engine.threads import Threads
from kv_transfer.digest import digest_blocks, digest_kind
from wire.layout import KvLayout


class TorchRunner:
    """A decoder, its paged KV cache and its sampler; see engine.runner.Runner."""

    def __init__(
        self,
        config: ModelConfig,
        model: Transformer,
        layout: KvLayout,
        device: torch.device,
        *,
        model_hash: str,
        max_model_len: int,
    ) -> None:
        self.layout = layout
        self.vocab_size = config.vocab_size
        self.max_model_len = max_model_len
        self.eos_token_ids = frozenset(config.eos_token_ids)
        self.model_hash = model_hash
        self.device = device
        self.digest_kind = digest_kind(device)
        self._config = config
        self._model = model
        self._sampler = Sampler(self.eos_token_ids)
        self._attention: AttentionBackend | None = None

    @classmethod
    def load(
        cls,
        model_dir: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        block_size: int = 16,
        max_model_len: int | None = None,
        threads: int | None = None,
        most_threads: int | None = None,
        deterministic: bool = False,
        progress: Progress | None = None,
    ) -> Self:
        """Read a Hugging Face checkpoint directory onto a device.

        `device` is "auto" (a GPU if there is one), "cpu" or "cuda:N"; `dtype` is "auto",
        "float32", "bfloat16" or "float16"; `threads` sets torch's for the whole process, and up to
        `most_threads` compute prompts while cores are idle. With `deterministic`, no bit of an
        answer depends on what else is in the batch.
        Raises CheckpointError for the directory, ConfigError for the other arguments.
        """
        if threads is not None:
            _set_num_threads(threads)
        directory, chosen = Path(model_dir), choose_device(device)
        config, weights = read_config(directory), find_weights(directory)
        torch_dtype = choose_dtype(dtype, chosen, weights.dtype)
        length = _choose_max_model_len(config, max_model_len)
        layout = _layout(config, block_size, torch_dtype)
        parameters = allocate_parameters(config, torch_dtype, chosen)
        load_weights(weights, checkpoint_targets(config, parameters), progress)
        model = Transformer(config, parameters, chosen, deterministic=deterministic)
        model.take_idle_cores(Threads(torch.get_num_threads(), most_threads))
        return cls(
            config,
            model,
            layout,
            chosen,
            model_hash=model_hash(weights, config),
            max_model_len=length,
        )

    def fit_num_blocks(self, cache_bytes: int | None, cache_fraction: float) -> int:
        """Blocks that fit into `cache_bytes`, or into that fraction of the device's free memory.

        ConfigError when not one fits.
        """
        free = free_bytes(self.device)
        budget = int(free * cache_fraction) if cache_bytes is None else cache_bytes
        num_blocks = budget // self.layout.block_bytes
        if num_blocks < 1:
            raise ConfigError(
                f"not one KV cache block fits: a block of {self.layout.block_size} tokens takes "
                f"{self.layout.block_bytes} bytes, the cache may take {budget}, and {free} are "
                f"free on {self.device}"
            )
        return num_blocks

    def allocate(self, num_blocks: int) -> CacheRegion:
        """Allocate the cache, zeroed; ConfigError when the device has no memory for it."""
        assert self._attention is None, "the cache is allocated once"
        num_bytes = num_blocks * self.layout.block_bytes
        try:
            memory = allocate_zeros(num_bytes, self.device)
        except (OSError, torch.OutOfMemoryError) as error:
            raise ConfigError(
                f"{num_blocks} KV cache blocks, {num_bytes} bytes, cannot be allocated on "
                f"{self.device}: {error}"
            ) from error
        self._memory = memory
        self._attention = TorchBackend(_shaped(memory, self.layout), self._config.windows)
        return CacheRegion(memory.data_ptr(), num_bytes, str(self.device), memory)

    def digest(self, blocks: Seq[int], first: int) -> int:
        """Checksum of these blocks; see engine.runner.Runner.digest."""
        return digest_blocks(self._memory, self.layout.block_bytes, blocks, first)

    def run(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> list[Sampled | None]:
        """Compute all slices in one batch; see engine.runner.Runner.run."""
        if not slices:
            return []
        rows, sampling = _last_rows(slices)
        with torch.inference_mode():
            hidden = self._forward(slices, on_layer)
            if not sampling:
                self._wait_for_cache()
                return [None] * len(slices)
            if len(rows) < len(hidden):
                hidden = hidden[rows]
            drawn = self._sampler.sample(self._model.logits(hidden), sampling)
        if len(sampling) == len(slices):
            return list(drawn)
        remaining = iter(drawn)
        return [next(remaining) if slice.samples else None for slice in slices]

    def skip_layers(self) -> None:
        """Embed and draw only: what is left of a step is its overhead."""
        self._model.skip_layers()

    def _wait_for_cache(self) -> None:
        """Transports read device memory without knowing torch's stream. (Drawing waits anyway.)"""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _forward(self, slices: Seq[Slice], on_layer: OnLayer | None) -> Tensor:
        """Hidden states [tokens, hidden_size] of all slices, one after the other."""
        assert self._attention is not None, "allocate comes before run"
        batch = self._attention.prepare(
            [Span(slice.start, slice.count, slice.sequence.blocks) for slice in slices]
        )
        inputs = torch.tensor(_inputs(slices), device=self.device)
        if on_layer is None or self.device.type == "cpu":
            return self._model.forward(inputs[0], inputs[1], inputs[2], batch, on_layer)
        marks = LayerMarks(self.device)
        hidden = self._model.forward(inputs[0], inputs[1], inputs[2], batch, marks.mark)
        marks.tell(on_layer)
        return hidden


def _inputs(slices: Seq[Slice]) -> tuple[list[int], list[int], list[int]]:
    """Token ids, positions, and what RoPE takes for the lengths of their sequences."""
    token_ids: list[int] = []
    positions: list[int] = []
    lengths: list[int] = []
    for slice in slices:
        sequence, start = slice.sequence, slice.start
        if slice.count == 1:
            token_ids.append(sequence.tokens[start])
            positions.append(start)
            lengths.append(max(start + 1, sequence.num_prompt))
        else:
            token_ids += sequence.tokens[start : slice.end]
            positions += range(start, slice.end)
            lengths += (max(end, sequence.num_prompt) for end in range(start + 1, slice.end + 1))
    return token_ids, positions, lengths


def _last_rows(slices: Seq[Slice]) -> tuple[list[int], list[Sequence]]:
    """Where among the step's tokens the last ones of the sampling slices are, and of whom."""
    rows, sampling, end = [], [], 0
    for slice in slices:
        end += slice.count
        if slice.samples:
            rows.append(end - 1)
            sampling.append(slice.sequence)
    return rows, sampling


def _choose_max_model_len(config: ModelConfig, wanted: int | None) -> int:
    if wanted is None:
        return config.max_model_len
    if not 1 <= wanted <= config.longest_model_len:
        raise ConfigError(
            f"max_model_len {wanted}: this model supports 1 to {config.longest_model_len} tokens"
        )
    return wanted


def _set_num_threads(threads: int) -> None:
    if threads < 1:
        raise ConfigError(f"threads {threads}: expected at least 1")
    torch.set_num_threads(threads)


def _layout(config: ModelConfig, block_size: int, dtype: torch.dtype) -> KvLayout:
    if block_size not in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        raise ConfigError(f"block_size {block_size}: expected a power of two from 1 to 256")
    return KvLayout(
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_size=config.head_size,
        block_size=block_size,
        dtype=str(dtype).removeprefix("torch."),
    )


def _shaped(memory: Tensor, layout: KvLayout) -> Tensor:
    """Bytes as [blocks, layers, 2, kv_heads, block_size, head_size]."""
    shape = (-1, layout.num_layers, 2, layout.num_kv_heads, layout.block_size, layout.head_size)
    return memory.view(getattr(torch, layout.dtype)).view(shape)
