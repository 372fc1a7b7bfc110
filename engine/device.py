"""Where a model lives, and in what precision."""

from __future__ import annotations

from collections.abc import Callable

import torch

from engine.errors import ConfigError

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class LayerMarks:
    """Where a device's stream is through with each layer, whose kernels are launched far ahead."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device)
        self._events: list[torch.cuda.Event] = []

    def mark(self, num_layers: int) -> None:
        """All of the next layer, of which there are `num_layers` then, has been launched."""
        self._events.append(self._stream.record_event())
        assert len(self._events) == num_layers

    def tell(self, on_layer: Callable[[int], None]) -> None:
        """Wait for one layer after the other; `on_layer(n)` is called when n are computed."""
        for number, event in enumerate(self._events, 1):
            event.synchronize()
            on_layer(number)


def choose_device(name: str) -> torch.device:
    """ "auto", "cpu" or "cuda:N" as a device that exists; ConfigError otherwise."""
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number or "0").isdecimal():
        raise ConfigError(f'device "{name}": expected "auto", "cpu" or "cuda:N"')
    count = torch.cuda.device_count()
    if int(number or "0") >= count:
        raise ConfigError(f'device "{name}": this machine has {count} CUDA devices')
    return torch.device("cuda", int(number or "0"))


def choose_dtype(name: str, device: torch.device, stored: torch.dtype) -> torch.dtype:
    """ "auto" is what the checkpoint is stored in on a GPU, and float32 on a CPU.

    CPUs seldom compute faster in 16 bits, and in float32 the rounding that differs with a batch's
    composition is too small to change a token, short of a tie.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else stored
    if name not in _DTYPES:
        raise ConfigError(f'dtype "{name}": expected "auto", {", ".join(map(repr, _DTYPES))}')
    return _DTYPES[name]
