"""The fewest tokens that a text can have, known without tokenizing it.

The tokens of a byte-level tokenizer are pieces of the text's bytes, so that a text has at least as
many of them as its bytes divided by the longest piece. Few texts are made of such pieces, and so
another measure is taken, too: places where a letter follows a blank, a digit a letter, and so on.
No piece holds many of them, as tokenizers part words, numbers and punctuation.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from router.text.detokenizer import bytes_of

Kinds = NDArray[np.uint8]
_BLANKS, _DIGITS = b" \t\r\n\v\f", b"0123456789"
_LETTERS = bytes(byte for byte in range(256) if chr(byte).isalpha() or byte >= 0x80)
_KIND = np.array(
    [
        1 if byte in _LETTERS else 2 if byte in _DIGITS else 3 if byte in _BLANKS else 0
        for byte in range(256)
    ],
    np.uint8,
)


class LengthBound:
    """Of a tokenizer whose tokens have these bytes; with `composes` it makes NFC of texts first."""

    def __init__(self, pieces: Iterable[bytes], *, composes: bool = False) -> None:
        known = [piece for piece in pieces if piece]
        lengths = np.array([len(piece) for piece in known])
        changes = np.concatenate([[0], np.cumsum(_changes(b"".join(known)))])
        ends = np.cumsum(lengths)
        self._most_bytes = int(lengths.max())
        # With the change at its first byte, which lies between two pieces.
        self._most_changes = 1 + int((changes[ends] - changes[ends - lengths + 1]).max())
        self._composes = composes

    def fewest_tokens(self, text: str) -> int:
        """Takes a few nanoseconds for each character. Raises UnicodeEncodeError."""
        content = (unicodedata.normalize("NFC", text) if self._composes else text).encode()
        num_changes = int(np.count_nonzero(_changes(content)))
        return max(-(-len(content) // self._most_bytes), num_changes // self._most_changes)


def length_bound(backend: Backend, alphabet: dict[str, int]) -> LengthBound | None:
    """None for a tokenizer that might drop, or take together, any part of a text."""
    parts: dict[str, Any] = json.loads(backend.to_str())
    vocabulary = backend.get_vocab(with_added_tokens=True)
    normalizer = parts["normalizer"]
    keeps_all = (
        parts["model"]["type"] == "BPE"
        and alphabet.keys() <= vocabulary.keys()
        and all(map(_parts_only, _steps(parts["pre_tokenizer"])))
        and (normalizer is None or normalizer["type"] == "NFC")
        and not any(token["lstrip"] or token["rstrip"] for token in parts["added_tokens"])
    )
    if not keeps_all:
        return None
    pieces = (bytes_of(token, alphabet) for token in vocabulary)
    return LengthBound(pieces, composes=normalizer is not None)


def _changes(content: bytes) -> NDArray[np.bool_]:
    """For each byte, whether it is of another kind than the one before it."""
    kinds: Kinds = _KIND[np.frombuffer(content, np.uint8)]
    changes = np.zeros(len(kinds), np.bool_)
    np.not_equal(kinds[1:], kinds[:-1], out=changes[1:])
    return changes


def _steps(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return list(pre_tokenizer["pretokenizers"])
    return [pre_tokenizer]


def _parts_only(step: dict[str, Any]) -> bool:
    """It removes nothing."""
    if step["type"] == "Split":
        return bool(step["behavior"] != "Removed")
    return step["type"] in ("ByteLevel", "Digits")
