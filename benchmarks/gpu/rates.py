"""Memory bandwidth and rate of matrix products of the device, measured in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.engine.floors import Rates

READ_BYTES = 4 << 30
"""Many times the size of its caches."""
SIZE = 8192
CPU_BYTES, CPU_SIZE = 32 << 20, 256
"""In the reduced form."""
ROUNDS = 12


def measure_rates(device: torch.device) -> Rates:
    """The highest of several rounds each; products in bfloat16."""
    return Rates(_read_rate(device), _product_rate(device))


def _read_rate(device: torch.device) -> float:
    """Bytes per second of a sum over memory."""
    num_bytes = READ_BYTES if device.type == "cuda" else CPU_BYTES
    memory = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
    return num_bytes / best_s(lambda: memory.sum(), device)


def _product_rate(device: torch.device) -> float:
    """FLOP per second with random numbers, since zeros would take less power, and thus less
    time."""
    size = SIZE if device.type == "cuda" else CPU_SIZE
    left = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    right = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    return 2 * size**3 / best_s(lambda: left @ right, device)


def copy_rate(device: torch.device, num_bytes: int) -> float:
    """Bytes per second that a copy within the device's memory moves; it reads and writes each."""
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return num_bytes / best_s(lambda: target.copy_(source), device)


def best_s(action: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Minimum seconds on the device over several rounds, after three for warm-up."""
    timed = _cuda_s if device.type == "cuda" else _host_s
    return min([timed(action) for _ in range(rounds + 3)][3:])


def _cuda_s(action: Callable[[], object]) -> float:
    begin, end = _event(), _event()
    begin.record()
    action()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _host_s(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
