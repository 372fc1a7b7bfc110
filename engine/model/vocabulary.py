"""Embedding and LM head, whole or divided among tensor-parallel ranks."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from engine.device.collective import Collective
from engine.model.model_part import ModelPart
from engine.model.parameters import Parameters


class VocabularyMatrices(Protocol):
    def embed(self, token_ids: Tensor) -> Tensor:
        """[tokens] -> [tokens, hidden_size]"""
        ...

    def logits(self, hidden: Tensor, into: Tensor | None = None) -> Tensor:
        """[rows, hidden_size] -> float32 [rows, vocab_size], which is `into` if that is given; on
        rank 0, where ranks share it."""
        ...


class WholeVocabulary:
    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def embed(self, token_ids: Tensor) -> Tensor:
        return functional.embedding(token_ids, self._parameters.embedding)

    def logits(self, hidden: Tensor, into: Tensor | None = None) -> Tensor:
        return _widened(self._parameters.head(hidden), into)


class SharedVocabulary:
    """A vocabulary-parallel embedding and head: vectors are all-reduced, logits gathered."""

    def __init__(self, parameters: Parameters, part: ModelPart, collective: Collective) -> None:
        self._parameters = parameters
        self._part = part
        self._collective = collective

    def embed(self, token_ids: Tensor) -> Tensor:
        own = token_ids - self._part.vocabulary.start
        elsewhere = (own < 0) | (own >= len(self._part.vocabulary))
        vectors = functional.embedding(own.masked_fill(elsewhere, 0), self._parameters.embedding)
        return self._collective.all_reduce(vectors.masked_fill_(elsewhere[:, None], 0))

    def logits(self, hidden: Tensor, into: Tensor | None = None) -> Tensor:
        """Ranks other than 0 return their part, [rows, num_vocabulary_rows]."""
        own = self._parameters.head(hidden)
        parts = self._collective.gather(own)
        if not parts:
            return own
        return _widened(torch.cat(parts, dim=-1)[:, : self._part.whole.vocab_size], into)


def _widened(logits: Tensor, into: Tensor | None) -> Tensor:
    return logits.float() if into is None else into.copy_(logits)
