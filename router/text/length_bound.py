"""A lower bound on the number of a text's tokens, without tokenizing it.

A byte-level tokenizer splits the text's bytes, so their number divided by the longest token's
length is a bound. A second one is usually better: tokenizers split words, numbers and punctuation,
so a token contains few places where the kind of character changes (letter to space, digit to
letter, …).
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
    """The bound for a tokenizer with these tokens; `composes` tells that it normalizes texts to
    NFC."""

    def __init__(self, pieces: Iterable[bytes], *, composes: bool = False) -> None:
        known = [piece for piece in pieces if piece]
        lengths = np.array([len(piece) for piece in known])
        changes = np.concatenate([[0], np.cumsum(_changes(b"".join(known)))])
        ends = np.cumsum(lengths)
        self._max_bytes = int(lengths.max())
        # Includes the change at the first byte, which lies between two tokens.
        self._max_changes = 1 + int((changes[ends] - changes[ends - lengths + 1]).max())
        self._composes = composes

    def min_num_tokens(self, text: str) -> int:
        """The bound, in a few nanoseconds per character. Raises UnicodeEncodeError."""
        content = (unicodedata.normalize("NFC", text) if self._composes else text).encode()
        num_changes = int(np.count_nonzero(_changes(content)))
        return max(-(-len(content) // self._max_bytes), num_changes // self._max_changes)


def length_bound(backend: Backend, alphabet: dict[str, int]) -> LengthBound | None:
    """The bound; None for a tokenizer that may drop or merge parts of a text."""
    parts: dict[str, Any] = json.loads(backend.to_str())
    vocabulary = backend.get_vocab(with_added_tokens=True)
    normalizer = parts["normalizer"]
    keeps_all = (
        parts["model"]["type"] == "BPE"
        and alphabet.keys() <= vocabulary.keys()
        and all(map(_only_splits, _steps(parts["pre_tokenizer"])))
        and (normalizer is None or normalizer["type"] == "NFC")
        and not any(token["lstrip"] or token["rstrip"] for token in parts["added_tokens"])
    )
    if not keeps_all:
        return None
    pieces = (bytes_of(token, alphabet) for token in vocabulary)
    return LengthBound(pieces, composes=normalizer is not None)


def _changes(content: bytes) -> NDArray[np.bool_]:
    """For each byte, whether its kind differs from that of the byte before it."""
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


def _only_splits(step: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer step only splits, and removes nothing."""
    if step["type"] == "Split":
        return bool(step["behavior"] != "Removed")
    return step["type"] in ("ByteLevel", "Digits")
