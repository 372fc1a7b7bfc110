"""The GPUs of this machine, shared out among workers that are plain processes."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.errors import StartFailed

_WHOLE = 0.999
"""Shares of 1/3 add up to this."""


class GpuShares:
    """Gives each worker whole GPUs, or a part of one that others may share."""

    def __init__(self, gpus: Sequence[str]) -> None:
        self._gpus = list(gpus)
        self._taken: dict[str, dict[str, float]] = {}
        """By worker: how much of which."""

    def take(self, name: str, amount: float, key: str) -> list[str]:
        """As CUDA_VISIBLE_DEVICES names them; `key` is where the amount was set. Raises
        StartFailed."""
        share = min(1.0, amount)
        fit = [gpu for gpu in self._gpus if self._used(gpu) + share <= 1 + (1 - _WHOLE)]
        fit.sort(key=self._used, reverse=True)  # a part goes beside other parts
        wanted = max(1, int(amount))
        if len(fit) < wanted:
            raise StartFailed(
                f"{name}: {key} is {amount:g}, and of the {len(self._gpus)} GPUs that this machine "
                f"has {len(fit)} are free for that: lower it, 0 computes on the CPU, or give "
                "CUDA_VISIBLE_DEVICES more of them"
            )
        self._taken[name] = dict.fromkeys(fit[:wanted], share)
        return fit[:wanted]

    def give_back(self, name: str) -> None:
        self._taken.pop(name, None)

    def _used(self, gpu: str) -> float:
        return sum(taken.get(gpu, 0.0) for taken in self._taken.values())
