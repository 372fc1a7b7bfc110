"""Pinned host memory: as much as is asked for, unpinned at the end, and errors in plain words.

The CUDA runtime is a recording of its calls; the memory is real.
"""

from __future__ import annotations

import mmap
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from engine.cache.cuda_block_copier import CudaCopier
from engine.device.pinned_memory import PinnedMemory

pytestmark = pytest.mark.quick

NUM_BYTES = 5 * 1024 * 1024 + 3
OUT_OF_MEMORY = 2


class RecordedRuntime:
    """The CUDA runtime's part; `code` is what registering returns."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.calls: list[tuple[object, ...]] = []

    def cudaHostRegister(self, address: int, num_bytes: int, flags: int) -> int:
        self.calls.append(("register", address, num_bytes, flags))
        return self.code

    def cudaHostUnregister(self, address: int) -> int:
        self.calls.append(("unregister", address))
        return 0

    def cudaGetErrorString(self, code: int) -> str:
        return {OUT_OF_MEMORY: "out of memory"}[code]


def test_exactly_the_bytes_that_are_asked_for_are_pinned_at_a_pages_start() -> None:
    runtime = RecordedRuntime()
    pinned = PinnedMemory(NUM_BYTES, runtime)
    address = pinned.tensor.data_ptr()
    assert runtime.calls == [("register", address, NUM_BYTES, 1)]
    assert address % mmap.PAGESIZE == 0
    assert pinned.tensor.shape == (NUM_BYTES,)
    pinned.tensor[-1] = 7
    assert pinned.tensor.sum() == 7


def test_memory_is_unpinned_once_and_stays_readable() -> None:
    runtime = RecordedRuntime()
    pinned = PinnedMemory(NUM_BYTES, runtime)
    pinned.close()
    pinned.close()
    assert runtime.calls[1:] == [("unregister", pinned.tensor.data_ptr())]
    assert not pinned.tensor.any()


def test_what_cannot_be_pinned_is_an_error_with_cudas_words() -> None:
    runtime = RecordedRuntime(OUT_OF_MEMORY)
    with pytest.raises(RuntimeError, match=rf"^{NUM_BYTES} bytes cannot be pinned.*out of memory"):
        PinnedMemory(NUM_BYTES, runtime)
    assert len(runtime.calls) == 1


def test_memory_that_the_machine_does_not_have_is_never_registered() -> None:
    runtime = RecordedRuntime()
    with pytest.raises((OSError, OverflowError)):
        PinnedMemory(1 << 60, runtime)
    assert runtime.calls == []


def test_a_copier_unpins_its_memory_when_its_copies_are_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = RecordedRuntime()

    def stream(device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(synchronize=lambda: runtime.calls.append(("wait",)))

    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    cache = torch.zeros(4 * 96, dtype=torch.uint8)
    copier = CudaCopier(cache, 7, 96, lambda num_bytes: PinnedMemory(num_bytes, runtime))
    copier.close()
    assert [call[0] for call in runtime.calls] == ["register", "wait", "unregister"]
    assert runtime.calls[0][2] == 7 * 96
