"""The runner that computes with PyTorch, on the CPU or on one GPU: a whole model, or a part."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from engine.attention.backend import AttentionBatch
from engine.attention.choice import Attention, choose_attention, make_attention
from engine.cache_shape import part_layout, shaped
from engine.collective import Alone, Collective
from engine.cuda.decode_graphs import DecodeGraphs
from engine.cuda.record import GraphRecorder, Record
from engine.device import LayerMarks, Precision, choose_device, choose_precision
from engine.errors import ConfigError
from engine.memory import allocate_zeros, free_bytes
from engine.model.config import ModelConfig, read_config
from engine.model.parameters import allocate_part, part_targets
from engine.model.part import ModelPart, model_part
from engine.model.transformer import Transformer
from engine.model.vocabulary import SharedVocabulary
from engine.model.weights import Progress, find_weights, load_weights, model_hash
from engine.results import Among, Unsampled
from engine.runner import CacheRegion, Collect, OnLayer, Sampled, Slice
from engine.sampler.sampler import Sampler
from engine.staging import Arriving, to_device
from engine.step_inputs import LastDrawn, Piece, last_rows, step_inputs
from engine.threads import Threads
from kv_transfer.digest import digest_blocks, digest_kind
from wire.layout import SCALED_DTYPES, KvLayout

GRAPHS = ("start", "lazy", "off")


@dataclass(frozen=True, slots=True)
class StepSettings:
    """How steps run on a GPU; see TorchRunner.load. Raises ConfigError for unknown names."""

    attention: str = "torch"
    graphs: str = "start"
    max_sequences: int = 256

    def __post_init__(self) -> None:
        if self.graphs not in GRAPHS:
            names = ", ".join(map(repr, GRAPHS))
            raise ConfigError(f'graphs "{self.graphs}": expected {names}')
        if self.max_sequences < 1:
            raise ConfigError(f"max_sequences {self.max_sequences}: expected at least 1")


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
        settings: StepSettings | None = None,
        part: ModelPart | None = None,
        collective: Collective | None = None,
    ) -> None:
        """`layout` and `model` are of the `part` of a model that this rank has, if not of all."""
        self.layout = layout
        self.vocab_size = config.vocab_size
        self.max_model_len = max_model_len
        self.eos_token_ids = frozenset(config.eos_token_ids)
        self.model_hash = model_hash
        self.device = device
        self.runs_ahead = device.type == "cuda"
        self.digest_kind = digest_kind(device)
        self._part = part or model_part(config)
        self._collective = collective or Alone()
        self._model = model
        self._sampler = Sampler(self.eos_token_ids)
        self._settings = settings or StepSettings()
        self._attention: Attention | None = None
        self._graphs: DecodeGraphs | None = None
        self._last = LastDrawn.of((), torch.empty(0, dtype=torch.int64, device=device))

    @classmethod
    def load(
        cls,
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
        progress: Progress | None = None,
        collective: Collective | None = None,
    ) -> Self:
        """Read a Hugging Face checkpoint directory onto a device.

        `device` is "auto" (a GPU if there is one), "cpu" or "cuda:N"; `dtype` is "auto",
        "float32", "bfloat16" or "float16", and `cache_dtype` "auto", which is what is computed in,
        "float32", "bfloat16" or "float8_e4m3fn"; `threads` sets torch's for the whole process, and
        up to `most_threads` compute prompts while cores are idle. With `deterministic`, no bit of
        an answer depends on what else is in the batch. On a GPU `attention` is "flashinfer",
        "torch", or "auto", the first of them that can be had, and decode steps of up to
        `max_sequences` are recorded as graphs: "start", "lazy", when a size is first needed, or
        "off". With a `collective` this is one rank of several, each of which loads its part; the
        collective is used when the cache is allocated, and not before.
        Raises CheckpointError for the directory, ConfigError for the other arguments.
        """
        if threads is not None:
            _set_num_threads(threads)
        directory, chosen = Path(model_dir), choose_device(device)
        config, weights = read_config(directory), find_weights(directory)
        ranks = collective or Alone()
        part = model_part(config, ranks.rank, ranks.size)
        precision = _choose_precision(dtype, cache_dtype, chosen, weights.dtype, part)
        length = _choose_max_model_len(config, max_model_len)
        scaled = str(precision.cache).removeprefix("torch.") in SCALED_DTYPES
        kernels = choose_attention(attention, chosen, scaled=scaled)
        settings = StepSettings(kernels, graphs, max_sequences)
        layout = part_layout(part, block_size, precision.cache)
        parameters = allocate_part(part, precision.weights, chosen, ranks)
        load_weights(weights, part_targets(part, parameters), progress, part.cut)
        shared = part.size > 1
        model = Transformer(
            part.config,
            parameters,
            chosen,
            compute=precision.compute,
            native=not (scaled and chosen.type == "cpu"),  # those kernels know no scales
            deterministic=deterministic,
            vocabulary=SharedVocabulary(parameters, part, ranks) if shared else None,
            shared=shared,
        )
        model.take_idle_cores(Threads(torch.get_num_threads(), most_threads))
        return cls(
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
        region = self.allocate_only(num_blocks)
        self.record_own_steps()
        return region

    def allocate_only(self, num_blocks: int) -> CacheRegion:
        """The same without anything being computed: ranks find out first whether all have room."""
        assert self._attention is None, "the cache is allocated once"
        num_bytes = num_blocks * self.layout.block_bytes
        num_spare = 1 if self.runs_ahead else 0  # for rows of a recorded step that nobody needs
        try:
            memory = allocate_zeros(num_bytes + num_spare * self.layout.block_bytes, self.device)
        except (OSError, torch.OutOfMemoryError) as error:
            raise ConfigError(
                f"{num_blocks} KV cache blocks, {num_bytes} bytes, cannot be allocated on "
                f"{self.device}: {error}"
            ) from error
        self._memory = memory
        self._num_blocks = num_blocks
        self._attention = make_attention(
            self._settings.attention,
            *shaped(memory, self.layout),
            self._part.config.windows,
            self._model.dtype,
            self._part.config.num_heads,
            self.layout.num_blocks(self.max_model_len),
        )
        return CacheRegion(memory.data_ptr(), num_bytes, str(self.device), memory)

    def record_own_steps(self) -> None:
        """As the settings ask for it; all ranks at once, for they compute with each other."""
        if self.device.type == "cuda" and self._settings.graphs != "off":
            self.record_steps(GraphRecorder(self.device), spare_block=self._num_blocks)

    def record_steps(self, record: Record, spare_block: int) -> None:
        """Decode steps repeat what `record` makes of one; the block is written to by nobody else.

        They are recorded now, or when a size of step is there for the first time.
        """
        assert self._attention is not None, "allocate comes before record_steps"
        self._graphs = DecodeGraphs(
            self._decode_logits,
            self._attention.graphs,
            record,
            self.device,
            most_rows=self._settings.max_sequences,
            most_blocks=self.layout.num_blocks(self.max_model_len),
            spare_block=spare_block,
            block_size=self.layout.block_size,
        )
        if self._settings.graphs == "start":
            with torch.inference_mode():
                self._graphs.record_all()

    def copy_block(self, source: int, target: int) -> None:
        """See engine.runner.Runner.copy_block."""
        size = self.layout.block_bytes
        copied = self._memory[source * size : (source + 1) * size]
        self._memory[target * size : (target + 1) * size].copy_(copied)
        self._wait_for_cache()

    def digest(self, blocks: Seq[int], first: int) -> int:
        """Checksum of these blocks; see engine.runner.Runner.digest."""
        return digest_blocks(self._memory, self.layout.block_bytes, blocks, first)

    def run(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> list[Sampled | None]:
        """Compute all slices in one batch; see engine.runner.Runner.run."""
        return list(self.launch(slices, on_layer)())

    def launch(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> Collect:
        """The same in two parts; see engine.runner.Runner.launch."""
        if not slices:
            return list
        return self.launch_pieces(self.pieces(slices), slices, on_layer)

    def pieces(self, slices: Seq[Slice]) -> list[Piece]:
        """What other ranks must know of the next step."""
        return [self._last.piece(slice) for slice in slices]

    def launch_pieces(
        self, pieces: Seq[Piece], slices: Seq[Slice], on_layer: OnLayer | None = None
    ) -> Collect:
        """`launch`, when the slices' pieces are there already."""
        sampling = [slice.sequence for slice in slices if slice.samples]
        with torch.inference_mode():
            logits = self._logits(pieces, on_layer)
            if not sampling:
                return Unsampled(len(slices), Arriving(self.device))
            drawn = self._sampler.draw(logits, sampling)
            if self.runs_ahead:
                self._collective.hand_out(drawn.tokens)
        self._last = LastDrawn.of(sampling, drawn.tokens)
        if len(sampling) == len(slices):
            return drawn.collect
        return Among([slice.samples for slice in slices], drawn)

    def follow(self, pieces: Seq[Piece], *, by_layers: bool) -> None:
        """Compute this rank's part of a step that rank 0 launches, `by_layers` or at once.

        What rank 0 draws is needed for the next step where that may be launched before rank 0
        knows it.
        """
        with torch.inference_mode():
            self._logits(pieces, _nobody if by_layers else None)
            num_drawn = sum(piece.samples for piece in pieces)
            if num_drawn and self.runs_ahead:
                tokens = torch.empty(num_drawn, dtype=torch.int64, device=self.device)
                self._collective.hand_out(tokens)
                self._last = LastDrawn(tokens, {})

    def close(self) -> None:
        """Nothing of it computes elsewhere."""

    def skip_layers(self) -> None:
        """Embed and draw only: what is left of a step is its overhead."""
        self._model.skip_layers()

    def _wait_for_cache(self) -> None:
        """Transports read device memory without knowing torch's stream. (Drawing waits anyway.)"""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _logits(self, pieces: Seq[Piece], on_layer: OnLayer | None) -> Tensor:
        """Of the rows that are sampled from, [rows, vocab_size]."""
        graphs = self._graphs
        if graphs is not None and on_layer is None and graphs.fits(pieces, self._last):
            return graphs.run(pieces, self._last)
        hidden = self._forward(pieces, on_layer)
        rows = last_rows(pieces)
        if not rows:
            return hidden[:0]
        if len(rows) < len(hidden):
            hidden = hidden.index_select(0, to_device(rows, self.device))
        return self._model.logits(hidden)

    def _decode_logits(
        self, ids: Tensor, positions: Tensor, lengths: Tensor, batch: AttentionBatch
    ) -> Tensor:
        return self._model.logits(self._model.forward(ids, positions, lengths, batch))

    def _forward(self, pieces: Seq[Piece], on_layer: OnLayer | None) -> Tensor:
        """Hidden states [tokens, hidden_size] of all pieces, one after the other."""
        assert self._attention is not None, "allocate comes before run"
        batch = self._attention.steps.prepare(pieces)
        inputs = step_inputs(pieces)
        ids, positions, lengths = to_device(inputs.rows, self.device)
        if inputs.unknown:
            ids = self._last.fill(ids, inputs.unknown)
        if on_layer is None or self.device.type == "cpu":
            return self._model.forward(ids, positions, lengths, batch, on_layer)
        marks = LayerMarks(self.device)
        hidden = self._model.forward(ids, positions, lengths, batch, marks.mark)
        marks.tell(on_layer)
        return hidden


def _nobody(num_layers: int) -> None:
    """Is told of this rank's layers."""


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
    if not 1 <= wanted <= config.longest_model_len:
        raise ConfigError(
            f"max_model_len {wanted}: this model supports 1 to {config.longest_model_len} tokens"
        )
    return wanted


def _set_num_threads(threads: int) -> None:
    if threads < 1:
        raise ConfigError(f"threads {threads}: expected at least 1")
    torch.set_num_threads(threads)
