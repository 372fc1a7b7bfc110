"""What the device gives: bytes read, and products made in bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.engine.floors import Rates

READ_BYTES = 4 << 30
"""Many times what its caches hold."""
SIZE = 8192
ROUNDS = 12


def measure_rates(device: torch.device) -> Rates:
    """The best of some rounds each."""
    return Rates(_read_rate(device), _product_rate(device))


def _read_rate(device: torch.device) -> float:
    """Of a sum over memory."""
    memory = torch.ones(READ_BYTES // 4, dtype=torch.float32, device=device)
    return READ_BYTES / best_s(lambda: memory.sum())


def _product_rate(device: torch.device) -> float:
    """Of random numbers: zeros would take less power, and so less time."""
    left = torch.randn(SIZE, SIZE, dtype=torch.bfloat16, device=device)
    right = torch.randn(SIZE, SIZE, dtype=torch.bfloat16, device=device)
    return 2 * SIZE**3 / best_s(lambda: left @ right)


def best_s(action: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds on the device, the least of so many rounds after three to warm up."""
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
