"""A model's matrix products beside torch's, in float32 and in the configured dtypes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measure import alternate
from engine.kernels.library import Kernels, ModelArguments
from engine.model.config import ModelConfig
from engine.model.linear import Linear
from engine.model.panels import pack

T = TypeVar("T")

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512, 2048)
COPIES_BYTES = 64 << 20
"""Total bytes of the copies of each weight, used in turn, as a model's layers are."""
LEAST = 0.95


@dataclass(frozen=True, slots=True)
class Kind:
    """The dtypes of weights and of computation."""

    weights: torch.dtype
    compute: torch.dtype


@dataclass(frozen=True, slots=True)
class Compared:
    """Speed of the kernels relative to torch's, by torch's dtype."""

    inputs: int
    outputs: int
    rows: int
    beside: dict[str, float]


def matrices(config: ModelConfig) -> list[tuple[int, int]]:
    """(inputs, outputs) of all products of a model."""
    query, keys = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
    hidden, inner = config.hidden_size, config.intermediate_size
    return [
        (hidden, query + 2 * keys),
        (query, hidden),
        (hidden, 2 * inner),
        (inner, hidden),
        (hidden, config.vocab_size),
    ]


def compare(
    kernels: Kernels, shapes: list[tuple[int, int]], kind: Kind, rounds: int
) -> Iterator[Compared]:
    for inputs, outputs in shapes:
        count = max(1, min(8, COPIES_BYTES // (4 * inputs * outputs)))
        weights = [torch.randn(outputs, inputs) for _ in range(count)]
        ours = Ours(kernels, weights, kind)
        dtypes = {torch.float32, kind.compute}
        theirs = {str(it).removeprefix("torch."): Theirs(weights, it) for it in dtypes}
        for rows in ROWS:
            given = torch.randn(rows, inputs)
            actions = (each.action(given) for each in theirs.values())
            # Of the CPU's time, so that a busy machine can be told from a slow product.
            own, *others = alternate(
                ours.action(given), *actions, rounds=rounds, clock=time.process_time
            )
            beside = [own.speed_beside(other) for other in others]
            yield Compared(inputs, outputs, rows, dict(zip(theirs, beside, strict=True)))


class Ours:
    def __init__(self, kernels: Kernels, weights: list[Tensor], kind: Kind) -> None:
        self._kernels = kernels
        is_bf16 = kind.weights == torch.bfloat16
        narrows = is_bf16 and kind.compute == torch.bfloat16 and kernels.can_narrow
        self._model = ModelArguments(is_bf16=is_bf16, narrows=narrows)
        copies = (weight.to(kind.weights, copy=True) for weight in weights)
        self._packed = Turns([pack(kernels, Linear(copy)) for copy in copies])

    def action(self, given: Tensor) -> Callable[[], object]:
        rows, inputs = given.shape
        found = torch.empty(rows, self._packed.next().structure.outputs)
        spare = torch.empty(self._kernels.packed_size(rows, inputs))

        def multiply() -> None:
            self._kernels.linear(
                self._model,
                self._packed.next().structure,
                given.data_ptr(),
                rows,
                spare.data_ptr(),
                found.data_ptr(),
                torch.get_num_threads(),
            )

        return multiply


class Theirs:
    def __init__(self, weights: list[Tensor], dtype: torch.dtype) -> None:
        self._weights = Turns([weight.to(dtype) for weight in weights])
        self._dtype = dtype

    def action(self, given: Tensor) -> Callable[[], object]:
        rows = given.to(self._dtype)
        return lambda: functional.linear(rows, self._weights.next())


class Turns(Generic[T]):
    """Cycles through items."""

    def __init__(self, items: list[T]) -> None:
        self._items = items
        self._taken = 0

    def next(self) -> T:
        self._taken += 1
        return self._items[self._taken % len(self._items)]
