"""Tokenizer hashes: equal for model directories that tokenize text alike."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

UNUSED = ("truncation", "padding", "version")
"""Parts of tokenizer.json that do not affect tokenization here."""


def tokenizer_hash(directory: Path) -> str | None:
    """The hash of a directory's tokenizer, independent of file format; None if it cannot be
    read."""
    try:
        tree = msgspec.json.decode((directory / "tokenizer.json").read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    if not isinstance(tree, dict):
        return None
    tokens = {key: value for key, value in tree.items() if key not in UNUSED}
    plain = msgspec.json.encode(_with_plain_merges(tokens), order="sorted")
    return hashlib.blake2b(plain, digest_size=16).hexdigest()


def _with_plain_merges(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with merges as pairs; older releases write them as texts with a space between."""
    model = tree.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("merges"), list):
        return tree
    merges = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    return {**tree, "model": {**model, "merges": merges}}
