"""Choice of a model's device and of its precision."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.device.cuda_problem import cuda_problem
from engine.device.gpu_sign import gpu_sign
from engine.errors import ConfigError
from engine.kernels.library import try_load_kernels
from kv_transfer.streams import Event, Stream

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_CACHE_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
}


POLL_S = 0.0001
"""Pause between looks at a layer that is computed."""


class LayerEvents:
    """CUDA events at the end of each layer, whose kernels are launched far ahead."""

    def __init__(self, stream: Stream) -> None:
        """`stream` is the one on which the layers are launched."""
        self._stream = stream
        self._events: list[Event] = []

    def record(self, num_layers: int) -> None:
        """Record that the kernels of layer `num_layers` - 1 have been launched."""
        self._events.append(self._stream.record_event())
        assert len(self._events) == num_layers

    def record_end(self) -> None:
        """Record that the rest of the step has been launched, too."""
        self._end = self._stream.record_event()

    def notify(self, on_layer: Callable[[int], None]) -> None:
        """Wait for one layer after the other, and for the end of the step.

        `on_layer(n)` is called when n layers are computed, and again while what follows is, so that
        other handoffs do not wait for it.
        """
        for number, event in enumerate([*self._events, self._end]):
            while not event.query():
                on_layer(number)
                time.sleep(POLL_S)
            if event is not self._end:
                on_layer(number + 1)


def choose_device(
    name: str,
    sign: Callable[[], str | None] = gpu_sign,
    problem: Callable[[], str | None] = cuda_problem,
) -> torch.device:
    """ "auto", "cpu" or "cuda:N" as a device that exists; ConfigError otherwise.

    "auto" does not fall back to the CPU when there are GPUs that PyTorch cannot use: the user of a
    GPU does not expect answers that take a hundred times as long.
    """
    if name == "cpu":
        return torch.device("cpu")
    cause = problem()
    if name == "auto":
        if cause is None:
            return torch.device("cuda", 0)
        if (found := sign()) is not None:
            raise ConfigError(
                f'device "auto": there is an NVIDIA GPU ({found}), and PyTorch cannot use it: '
                f'{cause}. Mend that, or set device to "cpu" to compute without it'
            )
        return torch.device("cpu")
    return _numbered_device(name, cause)


def _numbered_device(name: str, cause: str | None) -> torch.device:
    """ "cuda" or "cuda:N"; `cause` is why there is none."""
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number or "0").isdecimal():
        raise ConfigError(f'device "{name}": expected "auto", "cpu" or "cuda:N"')
    if cause is not None:
        raise ConfigError(f'device "{name}": PyTorch has no CUDA device: {cause}')
    count = torch.cuda.device_count()
    if int(number or "0") >= count:
        raise ConfigError(f'device "{name}": this process has {count} CUDA devices')
    return torch.device("cuda", int(number or "0"))


@dataclass(frozen=True, slots=True)
class Precision:
    """Dtypes of the weights, of the computation, and of the KV cache."""

    weights: torch.dtype
    compute: torch.dtype
    cache: torch.dtype


def choose_precision(
    dtype: str,
    cache_dtype: str,
    device: torch.device,
    stored: torch.dtype,
    has_kernels: Callable[[], bool] = lambda: try_load_kernels() is not None,
) -> Precision:
    """Dtypes by name; "auto" is what the checkpoint is stored in on a GPU, and float32 on a CPU.

    CPUs seldom compute faster in 16 bits, and in float32 the rounding that differs with a batch's
    composition is too small to change a token, short of a tie. Where there are compiled kernels,
    weights stay in bfloat16 then: they widen them exactly, and read half as much. (They read no
    cache of 8 bits.) A cache's "auto" is what is computed in. ConfigError for other names.
    """
    on_cpu = device.type == "cpu"
    compute = _dtype("dtype", dtype, _DTYPES) or (torch.float32 if on_cpu else stored)
    cache = _dtype("cache_dtype", cache_dtype, _CACHE_DTYPES) or compute
    wide = cache != torch.float8_e4m3fn
    kept = dtype == "auto" and on_cpu and stored == torch.bfloat16 and wide and has_kernels()
    return Precision(stored if kept else compute, compute, cache)


def _dtype(key: str, name: str, known: dict[str, torch.dtype]) -> torch.dtype | None:
    """None for "auto"."""
    if name == "auto":
        return None
    if name not in known:
        raise ConfigError(f'{key} "{name}": expected "auto", {", ".join(map(repr, known))}')
    return known[name]
