"""One `.safetensors` file: its header, and its tensors read straight to where they belong.

The file is read, not mapped: the pages of a mapped checkpoint count as this process's memory, so
that for a while there would be two copies of the model.
Format: https://huggingface.co/docs/safetensors (header length, JSON header, plain bytes).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
import torch
from torch import Tensor

from engine.device.memory import empty
from engine.errors import CheckpointError
from engine.model.model_part import TensorSlice

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_HOST = torch.device("cpu")
_HEADER_LIMIT = 100_000_000
_CHUNK_BYTES = 4 << 20


class StoredTensor(msgspec.Struct, frozen=True):
    """A tensor in a shard's header; its bytes are [begin, end) of the shard's data."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]

    @property
    def num_bytes(self) -> int:
        return self.data_offsets[1] - self.data_offsets[0]


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard whose header has been read and found to agree with the file's size."""

    path: Path
    header: bytes
    entries: dict[str, StoredTensor]
    num_bytes: int

    def offset(self, name: str) -> int:
        """Where the tensor's bytes begin in the file."""
        return 8 + len(self.header) + self.entries[name].data_offsets[0]

    def dtype(self, name: str) -> torch.dtype:
        """CheckpointError for anything but 32 and 16 bit floating point."""
        entry = self.entries[name]
        if entry.dtype not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise self.error(f"tensor '{name}' is stored as {entry.dtype}; supported: {known}")
        return _DTYPES[entry.dtype]

    def read_into(
        self,
        name: str,
        target: Tensor,
        progress: Callable[[int], None],
        cut: TensorSlice | None = None,
    ) -> None:
        """Fill the contiguous `target`, converting to its dtype; report the bytes as they come.

        With a `cut`, only the bytes of those rows or columns are read. CheckpointError when the
        shapes differ, or the file cannot be read or has become shorter.
        """
        entry, dtype = self.entries[name], self.dtype(name)
        wanted, found = list(target.shape), list(entry.shape)
        if cut is not None:
            assert len(cut.span) == wanted[cut.dimension], f"{name}: {cut} of {wanted}"
            wanted[cut.dimension] = cut.total
        if wanted != found:
            raise self.error(f"tensor '{name}': expected shape {wanted}, found {found}")
        if entry.num_bytes != math.prod(found) * dtype.itemsize:
            raise self.error(f"tensor '{name}': {entry.num_bytes} bytes do not fit {found}")
        chunks = list(_chunks(target, cut, dtype.itemsize))
        between: Tensor | None = None
        if target.dtype != dtype or target.device.type != "cpu":
            most = max((chunk.numel() for chunk, _ in chunks), default=0)
            between = empty((most,), dtype, _HOST)
        try:
            with self.path.open("rb", buffering=0) as file:
                for chunk, reads in chunks:
                    progress(self._read_chunk(file, name, chunk, between, reads))
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror}") from error

    def _read_chunk(
        self, file: BinaryIO, name: str, chunk: Tensor, between: Tensor | None, offsets: range
    ) -> int:
        """Fill a chunk from equal runs of bytes, one at each of these offsets in the tensor.

        Bytes go through `between` when the chunk has another dtype or device.
        """
        buffer = chunk if between is None else between[: chunk.numel()].view(chunk.shape)
        window = memoryview(buffer.view(-1).view(torch.uint8).numpy().data)
        run, begin = len(window) // len(offsets), self.offset(name)
        for index, offset in enumerate(offsets):
            self._read_run(file, name, window[index * run : (index + 1) * run], begin + offset)
        if between is not None:
            chunk.copy_(buffer)
        return buffer.nbytes

    def _read_run(self, file: BinaryIO, name: str, window: memoryview, offset: int) -> None:
        while window:
            count = os.preadv(file.fileno(), [window], offset)
            if not count:
                raise self.error(f"ends within tensor '{name}'")
            window, offset = window[count:], offset + count

    def error(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}")


def open_shard(path: Path) -> Shard:
    """Read the header; CheckpointError when the file is missing, truncated or corrupt."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= _HEADER_LIMIT else b""
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if not 0 < length == len(header):
        raise CheckpointError(f"{path}: truncated or no safetensors file: its header is cut off")
    shard = Shard(path, header, _decode_header(path, header), path.stat().st_size)
    expected = 8 + length + max((e.data_offsets[1] for e in shard.entries.values()), default=0)
    if shard.num_bytes != expected:
        raise shard.error(
            f"truncated or corrupt: expected {expected} bytes, {shard.num_bytes} found"
        )
    return shard


def _chunks(target: Tensor, cut: TensorSlice | None, item: int) -> Iterator[tuple[Tensor, range]]:
    """Chunks of a tensor, and the offsets of the equal runs of stored bytes that fill each.

    Whole tensors and rows are one run a chunk; columns are one run a row.
    """
    if cut is not None and cut.dimension == 1:
        stride, first = cut.total * item, cut.span.start * item
        count = max(1, _CHUNK_BYTES // max(1, len(cut.span) * item))
        for row in range(0, len(target), count):
            chunk = target[row : row + count]
            begin = first + row * stride
            yield chunk, range(begin, begin + len(chunk) * stride, stride)
        return
    flat, count = target.view(-1), _CHUNK_BYTES // item
    start = 0 if cut is None else cut.span.start * (target.numel() // max(1, len(target)))
    for index in range(0, len(flat), count):
        begin = (start + index) * item
        yield flat[index : index + count], range(begin, begin + 1)


def _decode_header(path: Path, header: bytes) -> dict[str, StoredTensor]:
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        return {name: msgspec.json.decode(value, type=StoredTensor) for name, value in raw.items()}
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: corrupt safetensors header: {error}") from error
