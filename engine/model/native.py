"""A decoder for the compiled CPU kernels: layers and head as structures that they read.

Activations are float32, weights stay in the dtype that they are stored in.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from engine.device.threads import Threads
from engine.kernels import library
from engine.kernels.library import Kernels, address, try_load_kernels
from engine.model.config import ModelConfig
from engine.model.linear import Linear
from engine.model.panels import PackedLinear, pack
from engine.model.parameters import LayerParameters, Parameters


class NativeDecoder:
    """A decoder's parameters for the kernels, float32 or bfloat16 on the CPU.

    Weights are reordered in place; see `engine.model.panels`. Results for a token depend on its own
    sequence alone, bit for bit: neither on chunked prefill, nor on the rest of the batch, nor on
    the number of threads.
    """

    def __init__(
        self,
        kernels: Kernels,
        config: ModelConfig,
        parameters: Parameters,
        compute: torch.dtype,
    ) -> None:
        """`compute` is the dtype that products round their inputs to, where the CPU supports it."""
        self.kernels = kernels
        self.config = config
        self.parameters = parameters
        self.is_bf16 = parameters.embedding.dtype == torch.bfloat16
        narrows = self.is_bf16 and compute == torch.bfloat16 and kernels.can_narrow
        self.model = _model_structure(config, self.is_bf16, narrows)
        self._is_tied = parameters.head.weight.data_ptr() == parameters.embedding.data_ptr()
        self._packed: list[PackedLinear] = []
        self.layers = (library.LayerArguments * len(parameters.layers))(
            *(
                self._layer_structure(layer, window)
                for layer, window in zip(parameters.layers, config.windows, strict=True)
            )
        )
        layer = parameters.layers[0]
        products = layer.qkv, layer.output, *_matrices(layer)
        self.layer_bytes = sum(each.weight.nbytes for each in products)
        self._head = self._pack(parameters.head)
        # A row of a step needs this many floats: for hidden or attended states, and for queries,
        # keys and values, or gate and up with their product behind them.
        attended = config.num_heads * config.head_size
        self.narrow = max(config.hidden_size, attended)
        keys = config.num_kv_heads * config.head_size
        self.wide = max(attended + 2 * keys, 3 * config.intermediate_size)
        self._scratch = torch.empty(0)
        self._cache: Tensor | None = None
        self._cache_structure = library.CacheArguments()
        self.threads = Threads(torch.get_num_threads())

    def embed(self, token_ids: Tensor) -> Tensor:
        """[tokens] -> float32 [tokens, hidden_size], memory of its own."""
        if not self._is_tied:
            return functional.embedding(token_ids, self.parameters.embedding).float()
        ids = token_ids.contiguous()
        vectors = torch.empty(len(ids), self.config.hidden_size)
        self.kernels.read(self._head, self.is_bf16, ids.data_ptr(), len(ids), vectors.data_ptr())
        return vectors

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 [rows, hidden_size] -> [rows, vocab_size]"""
        rows, hidden = len(hidden), hidden.contiguous()
        logits = hidden.new_empty(rows, self.config.vocab_size)
        packed = self.scratch(self.packed_size(rows)).data_ptr()
        threads = torch.get_num_threads()
        self.kernels.linear(
            self.model, self._head, hidden.data_ptr(), rows, packed, logits.data_ptr(), threads
        )
        return logits

    def packed_size(self, rows: int) -> int:
        """Floats of scratch memory that a product of so many rows takes at most."""
        most_inputs = max(self.narrow, self.config.intermediate_size)
        return int(self.kernels.packed_size(rows, most_inputs))

    def scratch(self, size: int) -> Tensor:
        """Uninitialized float32 [size or more], reused by all steps."""
        if size > len(self._scratch):
            self._scratch = torch.empty(size)
        return self._scratch

    def cache_structure(self, cache: Tensor) -> library.CacheArguments:
        """A cache tensor's structure, kept for the next step."""
        if self._cache is not cache:
            base, layers, block_size = cache.data_ptr(), cache.shape[1], cache.shape[4]
            is_bf16 = cache.dtype == torch.bfloat16
            self._cache_structure = library.CacheArguments(base, layers, block_size, is_bf16)
            self._cache = cache
        return self._cache_structure

    def _layer_structure(
        self, layer: LayerParameters, window: int | None
    ) -> library.LayerArguments:
        gate_up, down = _matrices(layer)
        return library.LayerArguments(
            input_norm=address(layer.input_norm),
            query_norm=address(layer.query_norm),
            key_norm=address(layer.key_norm),
            post_attention_norm=address(layer.post_attention_norm),
            qkv=self._pack(layer.qkv),
            output=self._pack(layer.output),
            gate_up=self._pack(gate_up),
            down=self._pack(down),
            window=window or 0,
        )

    def _pack(self, linear: Linear) -> library.PanelMatrix:
        packed = pack(self.kernels, linear)
        self._packed.append(packed)
        return packed.structure


def try_native(
    config: ModelConfig, parameters: Parameters, compute: torch.dtype
) -> NativeDecoder | None:
    """None where kernels cannot be had, or do not know the device, dtype or feed-forward."""
    embedding = parameters.embedding
    if embedding.device.type != "cpu" or embedding.dtype not in (torch.float32, torch.bfloat16):
        return None
    if any(layer.feed_forward.kernel_matrices is None for layer in parameters.layers):
        return None
    kernels = try_load_kernels()
    return None if kernels is None else NativeDecoder(kernels, config, parameters, compute)


def _matrices(layer: LayerParameters) -> tuple[Linear, Linear]:
    matrices = layer.feed_forward.kernel_matrices
    assert matrices is not None, "try_native has looked"
    return matrices


def _model_structure(config: ModelConfig, is_bf16: bool, narrows: bool) -> library.ModelArguments:
    return library.ModelArguments(
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_size=config.head_size,
        is_bf16=is_bf16,
        narrows=narrows,
        eps=config.rms_norm_eps,
    )
