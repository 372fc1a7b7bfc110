"""A decoder for compiled kernels: its layers as structures that they read, and its head.

Activations are float32, weights stay as they are stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels import library
from engine.kernels.library import Kernels, address, try_load_kernels
from engine.model.config import ModelConfig
from engine.model.linear import Linear, multiplies_bfloat16
from engine.model.parameters import LayerParameters, Parameters
from engine.threads import Threads

_FEW_ROWS = {torch.float32: 64, torch.bfloat16: 128}
_FEW_ROWS_BESIDE_BFLOAT16 = 16
"""Up to here the kernels' products are at least as fast as PyTorch's, by the weights' dtype, or
where PyTorch multiplies bfloat16 itself."""


class NativeDecoder:
    """Parameters that kernels can read; they must be float32 or bfloat16 and on the CPU."""

    def __init__(
        self,
        kernels: Kernels,
        config: ModelConfig,
        parameters: Parameters,
        compute: torch.dtype,
    ) -> None:
        self.kernels = kernels
        self.config = config
        self.parameters = parameters
        self.is_bf16 = parameters.embedding.dtype == torch.bfloat16
        self.narrows = compute == torch.bfloat16 and multiplies_bfloat16()
        few_rows = _FEW_ROWS[parameters.embedding.dtype]
        self.few_rows = _FEW_ROWS_BESIDE_BFLOAT16 if self.narrows else few_rows
        self.model = _model_structure(config, self.is_bf16)
        self.layers = (library.Layer * len(parameters.layers))(
            *(
                _layer_structure(layer, window)
                for layer, window in zip(parameters.layers, config.windows, strict=True)
            )
        )
        layer = parameters.layers[0]
        products = layer.qkv, layer.output, layer.gate_up, layer.down
        self.layer_bytes = sum(each.weight.nbytes for each in products)
        self._head = _linear_structure(parameters.head)
        # A row of a step needs this many floats: for hidden or attended states, and for queries,
        # keys and values, or gate and up with their product behind them.
        attended = config.num_heads * config.head_size
        self.narrow = max(config.hidden_size, attended)
        keys = config.num_kv_heads * config.head_size
        self.wide = max(attended + 2 * keys, 3 * config.intermediate_size)
        # And this many where products that kernels make read their inputs.
        self.packed = library.packed_size(max(self.narrow, config.intermediate_size))
        self._scratch = torch.empty(0)
        self._cache: Tensor | None = None
        self._cache_structure = library.Cache()
        self.threads = Threads(torch.get_num_threads())

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 [rows, hidden_size] -> [rows, vocab_size]"""
        rows, hidden = len(hidden), hidden.contiguous()
        logits = hidden.new_empty(rows, self.config.vocab_size)
        if rows > self.few_rows:
            self.add_product(self.parameters.head, hidden, logits, keep=False)
        else:
            self.kernels.linear(
                self._head,
                self.is_bf16,
                hidden.data_ptr(),
                rows,
                self.scratch(rows * self.packed).data_ptr(),
                logits.data_ptr(),
                torch.get_num_threads(),
            )
        return logits

    def add_product(self, linear: Linear, inputs: Tensor, output: Tensor, *, keep: bool) -> None:
        """Many rows by PyTorch; see Linear.add_to."""
        linear.add_to(output, inputs, keep=keep, narrows=self.narrows)

    def scratch(self, size: int) -> Tensor:
        """Uninitialized float32 [size or more], the same memory for each step."""
        if size > len(self._scratch):
            self._scratch = torch.empty(size)
        return self._scratch

    def cache_structure(self, cache: Tensor) -> library.Cache:
        """Of a tensor as library.Cache describes it; there is mostly one in a decoder's life."""
        if self._cache is not cache:
            base, layers, block_size = cache.data_ptr(), cache.shape[1], cache.shape[4]
            is_bf16 = cache.dtype == torch.bfloat16
            self._cache_structure = library.Cache(base, layers, block_size, is_bf16)
            self._cache = cache
        return self._cache_structure


def try_native(
    config: ModelConfig, parameters: Parameters, compute: torch.dtype
) -> NativeDecoder | None:
    """None where kernels do not understand device or dtype, or cannot be had."""
    embedding = parameters.embedding
    if embedding.device.type != "cpu" or embedding.dtype not in (torch.float32, torch.bfloat16):
        return None
    kernels = try_load_kernels()
    return None if kernels is None else NativeDecoder(kernels, config, parameters, compute)


def _model_structure(config: ModelConfig, is_bf16: bool) -> library.Model:
    return library.Model(
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_size=config.head_size,
        is_bf16=is_bf16,
        eps=config.rms_norm_eps,
    )


def _layer_structure(layer: LayerParameters, window: int | None) -> library.Layer:
    return library.Layer(
        input_norm=address(layer.input_norm),
        query_norm=address(layer.query_norm),
        key_norm=address(layer.key_norm),
        post_attention_norm=address(layer.post_attention_norm),
        qkv=_linear_structure(layer.qkv),
        output=_linear_structure(layer.output),
        gate_up=_linear_structure(layer.gate_up),
        down=_linear_structure(layer.down),
        window=window or 0,
    )


def _linear_structure(linear: Linear) -> library.Linear:
    weight, bias = address(linear.weight), address(linear.bias)
    return library.Linear(weight, bias, linear.inputs, linear.outputs)
