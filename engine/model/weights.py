"""A checkpoint directory's weights: finds, checks, reads and hashes them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from engine.errors import CheckpointError
from engine.model.config import ModelConfig
from engine.model.keys import Keys, read_json
from engine.model.model_part import TensorSlice
from engine.model.shard import Shard, open_shard

Progress = Callable[[int, int], None]
"""Called with (loaded_bytes, total_bytes) of the stored tensors; by one thread at a time."""

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SAMPLE_BYTES = 1024
_NUM_READERS = 2
"""Bytes that are in the page cache are copied by a core, and two of them do it in half the time."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The shards of a directory, headers read, and which of them holds which tensor."""

    directory: Path
    shards: tuple[Shard, ...]
    holders: dict[str, Shard]

    def holder(self, name: str) -> Shard:
        if name not in self.holders:
            files = ", ".join(shard.path.name for shard in self.shards)
            raise CheckpointError(f"{self.directory}: tensor '{name}' is missing from {files}")
        return self.holders[name]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the embedding is stored in, which stands for the checkpoint's."""
        name = "model.embed_tokens.weight"
        return self.holder(name).dtype(name)


def find_weights(directory: Path) -> Weights:
    """Open all shards' headers; CheckpointError names the files that are missing or broken.

    As in transformers a whole file wins: the index beside it is from an earlier save.
    """
    if (directory / _SINGLE).exists():
        shard = open_shard(directory / _SINGLE)
        return Weights(directory, (shard,), dict.fromkeys(shard.entries, shard))
    if (directory / _INDEX).exists():
        return _find_indexed(directory)
    others = ", ".join(sorted(path.name for path in directory.glob("*.safetensors")))
    found = f"only {others}" if others else "no .safetensors file"
    raise CheckpointError(f"{directory}: expected {_SINGLE} or {_INDEX}, found {found}")


def whole(name: str) -> TensorSlice | None:
    """The default slice: all of a tensor."""
    return None


def load_weights(
    weights: Weights,
    targets: dict[str, Tensor],
    progress: Progress | None = None,
    cut: Callable[[str], TensorSlice | None] = whole,
) -> None:
    """Fill every target, by checkpoint tensor name, and leave tensors without a target unread.

    `cut(name)` is the part of a tensor that its target takes. Tensors go in chunks to the
    target's device and dtype. CheckpointError names the tensor that is missing, of another shape,
    or stored in an unsupported dtype.
    """
    total = sum(
        target.numel() * weights.holder(name).dtype(name).itemsize
        for name, target in targets.items()
    )
    loaded, reporting = 0, threading.Lock()

    def report(num_bytes: int) -> None:
        nonlocal loaded
        with reporting:
            loaded += num_bytes
            if progress is not None:
                progress(loaded, total)

    def read(name: str) -> None:
        weights.holder(name).read_into(name, targets[name], report, cut(name))

    with ThreadPoolExecutor(_NUM_READERS, "weights") as readers:
        try:
            for _ in readers.map(read, targets):
                pass
        except BaseException:
            readers.shutdown(cancel_futures=True)
            raise


def model_hash(weights: Weights, config: ModelConfig) -> str:
    """A hash that is equal for equal models, in whatever dtype they are computed.

    It covers the configuration, the shards' headers and sizes, and a sample of bytes from the
    middle of each tensor: fine-tuned models differ, copies of one file do not.
    """
    digest = hashlib.blake2b(msgspec.json.encode(config), digest_size=16)
    for shard in weights.shards:
        digest.update(f"{shard.path.name}:{shard.num_bytes}".encode())
        digest.update(shard.header)
        _update_with_samples(digest, shard)
    return digest.hexdigest()


def _update_with_samples(digest: hashlib.blake2b, shard: Shard) -> None:
    try:
        with shard.path.open("rb", buffering=0) as file:
            for name in sorted(shard.entries):
                num_bytes = shard.entries[name].num_bytes
                file.seek(shard.offset(name) + max(0, num_bytes - _SAMPLE_BYTES) // 2)
                digest.update(file.read(min(num_bytes, _SAMPLE_BYTES)))
    except OSError as error:
        raise shard.error(f"cannot be read: {error.strerror}") from error


def _find_indexed(directory: Path) -> Weights:
    index = read_json(directory / _INDEX)
    names = index.mapping("weight_map").values
    if not all(isinstance(file, str) for file in names.values()):
        raise index.invalid("weight_map", "a file name for each tensor")
    files = sorted(set(map(str, names.values())))
    _check_present(index, files)
    shards = {file: open_shard(directory / file) for file in files}
    holders = {name: shards[str(file)] for name, file in names.items()}
    for name, shard in holders.items():
        if name not in shard.entries:
            raise shard.error(f"tensor '{name}' is missing, although {_INDEX} names this file")
    return Weights(directory, tuple(shards.values()), holders)


def _check_present(index: Keys, files: Sequence[str]) -> None:
    """Raises CheckpointError that names missing files."""
    missing = [file for file in files if not (index.path.parent / file).exists()]
    if missing:
        raise CheckpointError(
            f"{index.path}: names {len(files)} files, of which {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing beside it: download the rest of the "
            f"model, or delete the index if {_SINGLE} is to take its place"
        )
