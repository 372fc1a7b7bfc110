"""Memory bandwidth and bfloat16 FLOP rate of the device."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.engine.floors import Rates

READ_BYTES = 4 << 30
"""Many times the size of its caches."""
SIZE = 8192
ROUNDS = 12


def measure_rates(device: torch.device) -> Rates:
    """The highest of several rounds each."""
    return Rates(_read_rate(device), _product_rate(device))


def _read_rate(device: torch.device) -> float:
    """Bytes per second of a sum over memory."""
    memory = torch.ones(READ_BYTES // 4, dtype=torch.float32, device=device)
    return READ_BYTES / best_s(lambda: memory.sum())


def _product_rate(device: torch.device) -> float:
    """FLOP per second with random numbers, since zeros would take less power, and thus less
    time."""
    left = torch.randn(SIZE, SIZE, dtype=torch.bfloat16, device=device)
    right = torch.randn(SIZE, SIZE, dtype=torch.bfloat16, device=device)
    return 2 * SIZE**3 / best_s(lambda: left @ right)


def best_s(action: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Minimum seconds on the device over several rounds, after three for warm-up."""
    times: list[float] = []
    for _ in range(rounds + 3):
        begin, end = _event(), _event()
        begin.record()
        action()
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)) / 1e3)
    return min(times[3:])


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
