"""Tokens added by files beside tokenizer.json, and the names of special tokens.

The sources are those of transformers: `added_tokens_decoder` in tokenizer_config.json or, in older
directories, added_tokens.json and special_tokens_map.json; then the special tokens by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import AddedToken

from checkpoint.errors import BrokenDirectory
from checkpoint.json_file import read_object

NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class ExtraToken(msgspec.Struct, frozen=True):
    """A token to add; with `id` None it gets the next free id."""

    content: str
    id: int | None = None
    flags: dict[str, bool] = {}

    @property
    def added(self) -> AddedToken:
        return AddedToken(self.content, **self.flags)


def special_tokens(directory: Path) -> dict[str, str]:
    """Special tokens by their names in chat templates, such as "bos_token". Raises
    BrokenDirectory."""
    config = _merged(directory)
    found = {key: _content(value) for key, value in config.items() if key.endswith("_token")}
    return {key: content for key, content in found.items() if content is not None}


def extra_tokens(directory: Path) -> list[ExtraToken]:
    """Tokens to add, in order. Raises BrokenDirectory."""
    config = _merged(directory)
    path = directory / "tokenizer_config.json"
    special = [*_special(config)]
    if "added_tokens_decoder" in config:
        listed = [*_listed(config["added_tokens_decoder"], path)]
    else:
        listed = [*_legacy(directory / "added_tokens.json", frozenset(special))]
    known = {token.content for token in listed}
    flags = {"special": True, "normalized": False}
    return listed + [
        ExtraToken(content, None, flags) for content in special if content not in known
    ]


def _merged(directory: Path) -> Mapping[str, Any]:
    """tokenizer_config.json; older ones are supplemented by special_tokens_map.json."""
    config = read_object(directory / "tokenizer_config.json")
    if "added_tokens_decoder" in config:
        return config
    return {**config, **read_object(directory / "special_tokens_map.json")}


def _special(config: Mapping[str, Any]) -> Iterator[str]:
    """Texts of the special tokens, without duplicates."""
    values = [config.get(name) for name in NAMES]
    values += [
        value for key, value in config.items() if key.endswith("_token") and key not in NAMES
    ]
    for name in ("extra_special_tokens", "additional_special_tokens"):
        extra = config.get(name) or []
        values += extra.values() if isinstance(extra, dict) else extra
    contents = (_content(value) for value in values)
    yield from dict.fromkeys(content for content in contents if content)


def _content(value: object) -> str | None:
    """The token's text: entries are strings, or objects with a "content"."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _listed(decoder: object, path: Path) -> Iterator[ExtraToken]:
    if not isinstance(decoder, dict):
        raise BrokenDirectory(f"{path}: added_tokens_decoder is no object: download the file again")
    for key, entry in sorted(decoder.items(), key=lambda item: (len(item[0]), item[0])):
        content = _content(entry)
        if content is None or not key.isdecimal():
            text = f"{path}: added_tokens_decoder has {key!r}: {entry!r}, which is no token"
            raise BrokenDirectory(f"{text}: download the file again")
        flags = {flag: bool(entry[flag]) for flag in _FLAGS if flag in entry}
        yield ExtraToken(content, int(key), flags)


def _legacy(path: Path, special: frozenset[str]) -> Iterator[ExtraToken]:
    ids = read_object(path)
    if not all(isinstance(index, int) for index in ids.values()):
        raise BrokenDirectory(f"{path} must hold a token id for each text: download it again")
    for content, index in sorted(ids.items(), key=lambda item: item[1]):
        # Normalized tokens would not be found behind a normalizer that prepends a space.
        flags = {"special": content in special, "normalized": False}
        yield ExtraToken(content, index, flags)
