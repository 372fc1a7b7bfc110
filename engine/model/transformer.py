"""The decoder of the Llama family: embed, then attend and transform layer by layer, then norm."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Protocol

import torch
from torch import Tensor

from engine.attention.backend import AttentionBatch
from engine.device.threads import Threads
from engine.device.triton_available import uses_triton
from engine.errors import ConfigError
from engine.model.config import ModelConfig
from engine.model.native import NativeDecoder, try_native
from engine.model.native_step import NativeStep, Rotations
from engine.model.parameters import Parameters
from engine.model.rope import Rope
from engine.model.torch_step import TorchStep
from engine.model.vocabulary import VocabularyMatrices, WholeVocabulary


class Computation(Protocol):
    """One step's pass through the layers."""

    def layers(self, begin: int, end: int) -> None:
        """Compute layers [begin, end); their keys and values are in the cache afterwards."""
        ...

    def finish(self) -> Tensor:
        """The hidden states [rows, hidden_size] after the final norm; see Transformer.forward."""
        ...


class Transformer:
    """Llama, Mistral, Qwen2 and Qwen3: pre-norm blocks of grouped-query attention and SwiGLU.

    They differ in biases, in norms on query and key heads, and in sliding windows.
    """

    def __init__(
        self,
        config: ModelConfig,
        parameters: Parameters,
        device: torch.device,
        *,
        compute: torch.dtype | None = None,
        native: bool = True,
        deterministic: bool = False,
        vocabulary: VocabularyMatrices | None = None,
        shared: bool = False,
    ) -> None:
        """Compiled kernels compute where there are any, unless `native` is false.

        A tensor-parallel model (`shared`) has its own `vocabulary`, and no compiled layers: one
        call computes many layers, with no all-reduce in between.

        `compute` is the dtype of products of many rows, the weights' dtype when None; bfloat16
        weights may be computed with in float32 where there are kernels. With `deterministic`
        kernels compute everything, so that a token depends on its sequence alone. Raises
        ConfigError when there are no kernels then.
        """
        self._config = config
        self._parameters = parameters
        self._rope = Rope(config.rope, config.head_size, device)
        self.dtype = compute or parameters.embedding.dtype
        self._native: NativeDecoder | None = None
        if native and not shared:
            self._native = try_native(config, parameters, self.dtype)
        self._vocabulary = vocabulary or WholeVocabulary(parameters)
        self._fuses = native and uses_triton(device)
        if deterministic:
            self._compute_all_natively()

    @property
    def native(self) -> bool:
        """True when compiled kernels compute, not PyTorch's operations."""
        return self._native is not None

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        lengths: Tensor,
        batch: AttentionBatch,
        on_layer: Callable[[int], None] | None = None,
        drawn: Seq[int] | None = None,
    ) -> Tensor:
        """Token ids, positions and RoPE lengths, each [tokens] -> hidden [tokens, hidden_size].

        The tokens' keys and values are left in the batch's cache; `on_layer(n)` is called after n
        layers. Where `drawn` names the rows that are sampled from, in order, the result may have
        those rows only, for the last layer then takes a fraction of the time.
        """
        computation = self._begin(token_ids, positions, lengths, batch, drawn)
        num_layers = len(self._parameters.layers)
        if on_layer is None:
            computation.layers(0, num_layers)
            return computation.finish()
        for number in range(num_layers):
            computation.layers(number, number + 1)
            on_layer(number + 1)
        return computation.finish()

    def take_idle_cores(self, threads: Threads) -> None:
        """Let compiled kernels use as many threads as `threads` says."""
        if self._native is not None:
            self._native.threads = threads

    def logits(self, hidden: Tensor, into: Tensor | None = None) -> Tensor:
        """[rows, hidden_size] -> float32 [rows, vocab_size], which is `into` if that is given."""
        if self._native is not None:
            assert into is None, "compiled kernels have a tensor of their own"
            return self._native.logits(hidden)
        return self._vocabulary.logits(hidden, into)

    def _compute_all_natively(self) -> None:
        if self._native is None:
            raise ConfigError(
                "deterministic: this needs the compiled kernels, which there are for float32 and "
                "bfloat16 on a CPU, with a C++ compiler installed"
            )

    def _begin(
        self,
        token_ids: Tensor,
        positions: Tensor,
        lengths: Tensor,
        batch: AttentionBatch,
        drawn: Seq[int] | None,
    ) -> Computation:
        if self._native is None:
            hidden = self._vocabulary.embed(token_ids)
            if self._fuses:
                return self._fused(hidden, positions, lengths, batch)
            rotation = self._rope.rotation(positions, lengths, hidden.dtype)
            return TorchStep(self._config, self._parameters, hidden, rotation, batch)
        rotations = self._rotations(
            positions,
            lengths,
            max([sequence.start + sequence.count for sequence in batch.sequences]),
        )
        hidden = self._native.embed(token_ids)
        return NativeStep(self._native, hidden, rotations, batch.sequences, batch.cache, drawn)

    def _fused(
        self, hidden: Tensor, positions: Tensor, lengths: Tensor, batch: AttentionBatch
    ) -> Computation:
        from engine.model.fused_step import FusedStep

        rotation = self._rope.rotation(positions, lengths, torch.float32)
        return FusedStep(self._config, self._parameters, hidden, rotation, batch)

    def _rotations(self, positions: Tensor, lengths: Tensor, end: int) -> Rotations:
        """Rotations up to position `end`, or those of the step's rows alone."""
        if (tables := self._rope.try_tables(end)) is not None:
            return Rotations(*tables, by_position=True)
        return Rotations(*self._rope.rotation(positions, lengths, torch.float32), by_position=False)
