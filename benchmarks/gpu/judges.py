"""Independent implementations that say how likely tokens are, given all before them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.attention.backend import SequenceRows
from engine.attention.torch_backend import TorchBackend
from engine.model.config import read_config
from engine.model.parameters import allocate_parameters, checkpoint_targets
from engine.model.transformer import Transformer
from engine.model.weights import find_weights, load_weights

BLOCK_SIZE = 16


class Judge(Protocol):
    def logprobs(self, tokens: list[int]) -> Tensor:
        """float32 [tokens, vocab_size]: log-probabilities of the successor of each token."""
        ...


class TransformersJudge:
    """The model as implemented in transformers, with attention by its plain formula."""

    def __init__(self, directory: Path, dtype: torch.dtype, device: torch.device) -> None:
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, attn_implementation="eager"
        )
        self._model, self._device = model.to(device).eval(), device

    @torch.inference_mode()
    def logprobs(self, tokens: list[int]) -> Tensor:
        logits = self._model(torch.tensor([tokens], device=self._device)).logits[0]
        return logits.float().log_softmax(-1)


class PlainJudge:
    """The engine's model by PyTorch's operations alone, a prompt at once; on the CPU.

    Where transformers is not installed. It shares no kernel with a GPU, but the model's code.
    """

    def __init__(self, directory: Path, dtype: torch.dtype) -> None:
        self._config, self._dtype = read_config(directory), dtype
        cpu = torch.device("cpu")
        parameters = allocate_parameters(self._config, dtype, cpu)
        load_weights(find_weights(directory), checkpoint_targets(self._config, parameters))
        self._model = Transformer(self._config, parameters, cpu, native=False)

    @torch.inference_mode()
    def logprobs(self, tokens: list[int]) -> Tensor:
        config, count = self._config, len(tokens)
        num_blocks = -(-count // BLOCK_SIZE)
        shape = num_blocks, config.num_layers, 2, config.num_kv_heads, BLOCK_SIZE, config.head_size
        backend = TorchBackend(torch.zeros(shape, dtype=self._dtype), config.windows, self._dtype)
        batch = backend.prepare([SequenceRows(0, count, range(num_blocks))])
        positions = torch.arange(count)
        lengths = torch.full_like(positions, count)
        hidden = self._model.forward(torch.tensor(tokens), positions, lengths, batch)
        return self._model.logits(hidden).log_softmax(-1)
