"""The runner that computes with PyTorch: a whole model, or one tensor-parallel rank's part."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from engine.attention.backend import AttentionBatch
from engine.attention.choice import Attention, make_attention
from engine.device.collective import Collective, SingleRank
from engine.device.device import LayerEvents
from engine.device.to_device import PendingHostCopy, to_device
from engine.errors import ConfigError
from engine.model.config import ModelConfig
from engine.model.model_part import ModelPart, model_part
from engine.model.step_inputs import LastDrawn, StepSlice, last_rows, scored_rows, step_inputs
from engine.model.transformer import Transformer
from engine.runner import CacheRegion, Collect, OnLayer, Outcome, Slice
from engine.runners.captured_step import Capture, GraphCapture
from engine.runners.decode_graphs import DecodeGraphs
from engine.runners.device_cache import DeviceCache
from engine.runners.largest_step import LargestStep, peak_bytes
from engine.runners.results import ByLayers, NoneSampled, SomeSampled
from engine.sampler.sampler import Sampler
from engine.sampler.scores import WithScores, score, score_along
from engine.sequence import Sequence
from kv_transfer.cuda_streams import CudaStream
from kv_transfer.layout.device_checksum import checksum_kind
from kv_transfer.streams import Event
from wire.layout import KvLayout

GRAPHS = ("start", "lazy", "off")


@dataclass(frozen=True, slots=True)
class StepSettings:
    """Attention kernels and CUDA graphs; see load_torch_runner. Raises ConfigError."""

    attention: str = "torch"
    graphs: str = "start"
    max_sequences: int = 256
    chunk_tokens: int = 2048
    """Most prompt tokens that a step computes, for which memory is kept on a GPU."""
    or_torch: bool = False
    """Whether PyTorch's kernels may serve where those of `attention` cannot be loaded."""

    def __post_init__(self) -> None:
        if self.graphs not in GRAPHS:
            names = ", ".join(map(repr, GRAPHS))
            raise ConfigError(f'graphs "{self.graphs}": expected {names}')
        for name in ("max_sequences", "chunk_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: expected at least 1")


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
        """`layout` and `model` belong to this rank's `part` of the model; None is all of it."""
        self.layout = layout
        self.vocab_size = config.vocab_size
        self.max_model_len = max_model_len
        self.eos_token_ids = frozenset(config.eos_token_ids)
        self.model_hash = model_hash
        self.device = device
        self.runs_ahead = device.type == "cuda"
        self.checksum_kind = checksum_kind(device)
        self.cache = DeviceCache(layout, device)
        self.copy_block = self.cache.copy_block
        self.checksum = self.cache.checksum
        self._part = part or model_part(config)
        self._collective = collective or SingleRank()
        self._model = model
        self._sampler = Sampler(self.eos_token_ids)
        self._on_device: AbstractContextManager[object] = nullcontext()
        """Context of all launches: Triton kernels run on the current device, not the tensors'."""
        if device.type == "cuda":
            self._on_device = torch.cuda.device(device)
        self._settings = settings or StepSettings()
        self._attention: Attention | None = None
        self._graphs: DecodeGraphs | None = None
        self._decoded: Tensor | None = None
        """Logits float32 [max_sequences, vocab_size] of captured steps, on rank 0."""
        self._last = LastDrawn(torch.empty(0, dtype=torch.int64, device=device), ())

    def fit_num_blocks(self, cache_bytes: int | None, cache_fraction: float) -> int:
        """Blocks that fit into `cache_bytes`, or into that fraction of free memory; on a GPU of
        what the largest step and the graphs leave of it. ConfigError when not one fits.

        Ranks measure together: a step has collectives.
        """
        reserved = 0
        if cache_bytes is None and self.device.type == "cuda":
            with self._on_device, torch.inference_mode():
                reserved = self._measure_largest_step()
        return self.cache.fit_num_blocks(cache_bytes, cache_fraction, reserved)

    def _measure_largest_step(self) -> int:
        """Bytes that steps and captured graphs will take, measured over a small cache."""
        settings = self._settings
        step = LargestStep(
            settings.chunk_tokens,
            settings.max_sequences,
            self.max_model_len,
            self.layout.block_size,
        )
        cache_bytes = (step.num_blocks + 1) * self.layout.block_bytes
        num_bytes = peak_bytes(partial(self._take, step, step.slices()), self.device) - cache_bytes
        if settings.graphs != "off":
            rows_bytes = peak_bytes(partial(self._take, step, step.decode_rows()), self.device)
            num_bytes += rows_bytes - cache_bytes + settings.max_sequences * self.vocab_size * 4
        torch.cuda.empty_cache()
        return num_bytes

    def _take(self, step: LargestStep, slices: Seq[StepSlice]) -> None:
        """Compute a step over a cache of its own, which is given back."""
        self.allocate_only(step.num_blocks)
        logits = self._logits(slices, None, _score_nothing)
        if self._collective.rank == 0:
            self._sampler.draw(logits, step.sequences(len(slices)))
        self._attention = None
        del self.cache.memory

    def allocate(self, num_blocks: int) -> CacheRegion:
        """Allocate the cache, zeroed; ConfigError when the device has no memory for it."""
        region = self.allocate_only(num_blocks)
        self.capture_own_steps()
        return region

    def allocate_only(self, num_blocks: int) -> CacheRegion:
        """`allocate` without capturing steps: ranks check first that all have enough memory."""
        assert self._attention is None, "the cache is allocated once"
        num_spare = 1 if self.runs_ahead else 0  # for padding rows of captured steps
        region = self.cache.allocate(num_blocks, num_spare)
        self._num_blocks = num_blocks
        self._attention = make_attention(
            self._settings.attention,
            *self.cache.shaped(),
            self._part.config.windows,
            self._model.dtype,
            self._part.config.num_heads,
            self.layout.num_blocks(self.max_model_len),
            or_torch=self._settings.or_torch,
        )
        return region

    def capture_own_steps(self) -> None:
        """Capture CUDA graphs if the settings ask for it; on all ranks at once."""
        if self._collective.rank == 0:
            with self._on_device, torch.inference_mode():
                self._sampler.warm_up(self.vocab_size, self.device)
        if self.device.type == "cuda" and self._settings.graphs != "off":
            self.capture_steps(GraphCapture(self.device), spare_block=self._num_blocks)

    def capture_steps(self, capture: Capture, spare_block: int) -> None:
        """Replay decode steps that `capture` captured; padding rows write to `spare_block`.

        Steps are captured now, or with "lazy" graphs when a size is first needed.
        """
        assert self._attention is not None, "allocate comes before capture_steps"
        if self._collective.rank == 0:
            shape = self._settings.max_sequences, self.vocab_size
            self._decoded = torch.empty(shape, dtype=torch.float32, device=self.device)
        self._graphs = DecodeGraphs(
            self._decode_logits,
            self._attention.graphs,
            capture,
            self.device,
            most_rows=self._settings.max_sequences,
            most_blocks=self.layout.num_blocks(self.max_model_len),
            spare_block=spare_block,
            block_size=self.layout.block_size,
        )
        if self._settings.graphs == "start":
            with self._on_device, torch.inference_mode():
                self._graphs.capture_all()

    def run(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> Seq[Outcome]:
        """Compute all slices in one batch; see engine.runner.Runner.run."""
        return list(self.launch(slices, on_layer)())

    def launch(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> Collect:
        """Launch a step without waiting for it; see engine.runner.Runner.launch."""
        if not slices:
            return list
        return self.launch_step_slices(self.step_slices(slices), slices, on_layer)

    def step_slices(self, slices: Seq[Slice]) -> list[StepSlice]:
        """The slices as they are sent to other ranks."""
        return self._last.step_slices(slices)

    def launch_step_slices(
        self, step_slices: Seq[StepSlice], slices: Seq[Slice], on_layer: OnLayer | None = None
    ) -> Collect:
        """`launch` with the `step_slices` of these slices."""
        counts = [step_slice.num_sampled for step_slice in step_slices]
        sampling = _sampled_rows(slices, counts)
        scores: list[Tensor] = []

        def take_scored(hidden: Tensor) -> None:
            scores.extend(score(hidden, self._model.logits, slices))

        with self._on_device, torch.inference_mode():
            layers = None
            if on_layer is not None and self.device.type == "cuda":
                layers = LayerEvents(CudaStream.current(self.device))
            reached = on_layer if layers is None else layers.record
            logits = self._logits(step_slices, reached, take_scored)
            collect = self._draw(logits, sampling, counts)
            if scores:
                scored = [
                    (step_slice.num_scored, slice.sequence.sampling.prompt_logprobs or 0)
                    for step_slice, slice in zip(step_slices, slices, strict=True)
                ]
                collect = WithScores(collect, scored, PendingHostCopy(self.device, *scores))
            if layers is not None and on_layer is not None:
                layers.record_end()
                return ByLayers(layers, on_layer, collect)
            return collect

    def _draw(self, logits: Tensor, sampling: Seq[Sequence], counts: Seq[int]) -> Collect:
        if not sampling:
            return NoneSampled(len(counts), PendingHostCopy(self.device))
        drawn = self._sampler.draw(logits, sampling)
        if self.runs_ahead:
            self._collective.broadcast(drawn.tokens)
        self._last = LastDrawn(drawn.tokens, sampling)
        return SomeSampled(counts, drawn)

    def mark(self) -> Event | None:
        on_gpu = self.device.type == "cuda"
        return CudaStream.current(self.device).record_event() if on_gpu else None

    def follow(self, step_slices: Seq[StepSlice], *, by_layers: bool) -> None:
        """Compute this rank's part of a step that rank 0 launches, `by_layers` or at once.

        Where steps run ahead, rank 0 broadcasts its draws, which are the next step's inputs.
        """
        with self._on_device, torch.inference_mode():
            self._logits(step_slices, _nobody if by_layers else None, self._score_along)
            num_drawn = sum(step_slice.num_sampled for step_slice in step_slices)
            if num_drawn and self.runs_ahead:
                tokens = torch.empty(num_drawn, dtype=torch.int64, device=self.device)
                self._collective.broadcast(tokens)
                self._last = LastDrawn(tokens, ())

    def close(self) -> None:
        """There are no other processes to end."""

    def _score_along(self, hidden: Tensor) -> None:
        score_along(hidden, self._model.logits)

    def _logits(
        self,
        step_slices: Seq[StepSlice],
        on_layer: OnLayer | None,
        take_scored: Callable[[Tensor], None],
    ) -> Tensor:
        """Logits [rows, vocab_size] of the rows that are sampled from. `take_scored` is given the
        hidden states [rows, hidden_size] of rows whose successors are scored, if there are any."""
        graphs = self._graphs
        if graphs is not None and on_layer is None and graphs.fits(step_slices, self._last):
            return graphs.run(step_slices, self._last)
        last, scored = last_rows(step_slices), scored_rows(step_slices)
        rows = sorted({*last, *scored}) if scored else last
        hidden = self._forward(step_slices, on_layer, rows)
        if not rows:
            return hidden[:0]
        if len(rows) < len(hidden):
            hidden = self._rows(hidden, rows)
        if scored:
            places = {row: place for place, row in enumerate(rows)}
            take_scored(self._rows(hidden, [places[row] for row in scored]))
            hidden = self._rows(hidden, [places[row] for row in last])
        return self._model.logits(hidden) if last else hidden[:0]

    def _rows(self, hidden: Tensor, rows: list[int]) -> Tensor:
        return hidden.index_select(0, to_device(rows, self.device))

    def _decode_logits(
        self, ids: Tensor, positions: Tensor, lengths: Tensor, batch: AttentionBatch
    ) -> Tensor:
        """Logits of all sizes of graphs are in one tensor: a tensor for each would stay theirs.

        Ranks other than 0 return none.
        """
        hidden = self._model.forward(ids, positions, lengths, batch)
        if self._decoded is None:
            self._model.logits(hidden)
            return hidden.new_empty(0, 0)
        return self._model.logits(hidden, self._decoded[: len(hidden)])

    def _forward(
        self, step_slices: Seq[StepSlice], on_layer: OnLayer | None, drawn: Seq[int]
    ) -> Tensor:
        """Hidden states [tokens, hidden_size] of the step, or of the rows `drawn` alone."""
        assert self._attention is not None, "allocate comes before run"
        batch = self._attention.steps.prepare(step_slices)
        inputs = step_inputs(step_slices)
        ids, positions, lengths = to_device(inputs.rows, self.device)
        if inputs.unknown:
            ids = self._last.fill(ids, inputs.unknown)
        return self._model.forward(ids, positions, lengths, batch, on_layer, drawn)


def _sampled_rows(slices: Seq[Slice], counts: Seq[int]) -> list[Sequence]:
    """Each row's sequence, as it stands there; a slice has that many rows."""
    rows: list[Sequence] = []
    for slice, count in zip(slices, counts, strict=True):
        if count:
            rows.append(slice.sequence)
        if count > 1:
            rows += slice.drafted
    return rows


def _score_nothing(hidden: Tensor) -> None:
    """No row's successor is scored."""


def _nobody(num_layers: int) -> None:
    """A layer callback that does nothing."""
