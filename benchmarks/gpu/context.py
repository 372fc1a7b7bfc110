"""What a part is told: the device, and what the user has chosen.

torch, which takes seconds to import, is imported where it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.gpu.finding import Finding, failed

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Context:
    """`part` is its name. `device` is "cpu", where parts run in a reduced form, or "cuda:N"."""

    part: str
    device: str
    attention: str = "auto"

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device(self.device)

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def synchronize(self) -> None:
        if self.on_gpu:
            import torch

            torch.cuda.synchronize(self.torch_device)

    def free_cache(self) -> None:
        if self.on_gpu:
            import torch

            torch.cuda.empty_cache()


def guarded(
    context: Context, name: str, make: Callable[[], Iterator[Finding]]
) -> Iterator[Finding]:
    """The findings of `make`; an error becomes one of them, so that the part goes on.

    An error of the device itself is raised: nothing that comes after it in the same process can be
    trusted.
    """
    try:
        yield from make()
    except Exception as error:
        if _is_of_the_device(error):
            raise
        yield failed(name, f"{type(error).__name__}: {_first_line(error)}")
    context.free_cache()


def _is_of_the_device(error: Exception) -> bool:
    """PyTorch's AcceleratorError, or what libraries make of the same; not a lack of memory."""
    if type(error).__name__ == "OutOfMemoryError":
        return False
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
