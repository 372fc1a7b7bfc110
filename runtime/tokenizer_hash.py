"""Tells whether two model directories turn text into the same tokens."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

UNUSED = ("truncation", "padding", "version")
"""Parts of tokenizer.json that do not change which tokens a text becomes here."""


def tokenizer_hash(directory: Path) -> str | None:
    """Equal for equal tokenizers, however their files are laid out; None without a readable one."""
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
    """Merges are written as pairs or, by older releases, as texts with a blank between."""
    model = tree.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("merges"), list):
        return tree
    merges = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    return {**tree, "model": {**model, "merges": merges}}
