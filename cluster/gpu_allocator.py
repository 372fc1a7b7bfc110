"""GPU allocation for workers that are plain processes on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.errors import StartFailed

_WHOLE = 0.999
"""Tolerance for rounding: three shares of 1/3 add up to one GPU."""


class GpuAllocator:
    """Gives each worker whole GPUs, or a fraction of one that it shares with others."""

    def __init__(self, gpus: Sequence[str]) -> None:
        self._gpus = list(gpus)
        self._allocated: dict[str, dict[str, float]] = {}
        """GPU fractions in use, by worker and GPU."""

    def allocate(self, name: str, amount: float, key: str) -> list[str]:
        """Allocate GPUs; returns their names as for CUDA_VISIBLE_DEVICES.

        `key` is the setting with the amount, for messages. Raises StartFailed.
        """
        fraction = min(1.0, amount)
        fit = [gpu for gpu in self._gpus if self._used(gpu) + fraction <= 1 + (1 - _WHOLE)]
        fit.sort(key=self._used, reverse=True)  # fill a GPU that is shared already first
        num_wanted = max(1, int(amount))
        if len(fit) < num_wanted:
            raise StartFailed(
                f"{name}: {key} is {amount:g}, and of the {len(self._gpus)} GPUs that this machine "
                f"has {len(fit)} are free for that: lower it (0.5 shares one with another worker, "
                "0 computes on the CPU), or give CUDA_VISIBLE_DEVICES more of them"
            )
        self._allocated[name] = dict.fromkeys(fit[:num_wanted], fraction)
        return fit[:num_wanted]

    def release(self, name: str) -> None:
        self._allocated.pop(name, None)

    def _used(self, gpu: str) -> float:
        return sum(allocated.get(gpu, 0.0) for allocated in self._allocated.values())
