"""Memory bandwidth and FLOP rate of this machine, with torch's current number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from benchmarks.engine.floors import Rates
from benchmarks.measure import timed
from engine.model.config import ModelConfig

READ_BYTES = 512 << 20
"""More than any cache holds."""
ROWS = 512
SECONDS = 1.0


def measure_rates(config: ModelConfig, dtypes: Iterable[torch.dtype]) -> Rates:
    """The highest rates of many rounds and of all permitted dtypes."""
    return Rates(read_rate(), max(product_rate(config, dtype) for dtype in dtypes))


def read_rate() -> float:
    """Bytes per second of a sum over memory."""
    memory = torch.ones(READ_BYTES // 4, dtype=torch.float32)
    return READ_BYTES / _best_s(lambda: memory.sum())


def product_rate(config: ModelConfig, dtype: torch.dtype) -> float:
    """FLOP per second of the model's largest matrix, with the number of rows of a chunk."""
    inputs, outputs = config.hidden_size, 2 * config.intermediate_size
    rows = torch.randn(ROWS, inputs, dtype=dtype)
    weight = torch.randn(outputs, inputs, dtype=dtype)
    flops = 2 * ROWS * inputs * outputs
    return flops / _best_s(lambda: torch.nn.functional.linear(rows, weight))


def _best_s(action: Callable[[], object]) -> float:
    best, spent = float("inf"), 0.0
    while spent < SECONDS:
        took = timed(action)
        best, spent = min(best, took), spent + took
    return best
