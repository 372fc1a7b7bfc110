"""Host memory that a GPU copies from and to directly, of exactly the size that is asked for.

PyTorch's allocator of pinned memory rounds up to a power of two, so that 70 GB would pin 128. Here
pages are mapped and then registered with the CUDA runtime.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from engine.device.memory import map_huge_pages

_PORTABLE = 1
"""cudaHostRegisterPortable: pinned for every device, not only for the current one."""


class CudaRuntime(Protocol):
    """The functions of torch.cuda.cudart() that are used here; codes are 0 for success."""

    def cudaHostRegister(self, address: int, num_bytes: int, flags: int) -> Any: ...

    def cudaHostUnregister(self, address: int) -> Any: ...

    def cudaGetErrorString(self, code: Any) -> str: ...


class PinnedMemory:
    """`tensor`, uint8 [num_bytes], is pinned until `close`, and stays mapped while it is used."""

    def __init__(self, num_bytes: int, runtime: CudaRuntime | None = None) -> None:
        """Raises OSError where there is no such memory, and RuntimeError where it cannot be pinned.

        The current device must be the one that copies. All pages are committed.
        """
        self._runtime: CudaRuntime = runtime or torch.cuda.cudart()  # type: ignore[no-untyped-call]
        self.tensor = torch.frombuffer(map_huge_pages(num_bytes), dtype=torch.uint8)
        self._address: int | None = self.tensor.data_ptr()
        code = self._runtime.cudaHostRegister(self._address, num_bytes, _PORTABLE)
        if int(code) != 0:
            self._address = None
            raise RuntimeError(
                f"{num_bytes} bytes cannot be pinned (cudaHostRegister): "
                f"{self._runtime.cudaGetErrorString(code)}"
            )

    def close(self) -> None:
        """Unpin the memory; no copy may be under way. Idempotent.

        An error is not raised: the pages go with the process, and nothing else depends on it.
        """
        if self._address is not None:
            self._runtime.cudaHostUnregister(self._address)
            self._address = None
