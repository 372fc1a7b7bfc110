"""Which tokenizers count as the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.tokenizer_hash import tokenizer_hash

pytestmark = pytest.mark.quick

TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "added_tokens": [{"id": 0, "content": "<s>", "special": True}],
    "model": {"type": "BPE", "vocab": {"a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]]},
}


def hash_of(folder: Path, tree: object, **layout: Any) -> str | None:
    (folder / "tokenizer.json").write_text(json.dumps(tree, **layout))
    return tokenizer_hash(folder)


def with_model(**changes: Any) -> dict[str, Any]:
    return {**TOKENIZER, "model": {**TOKENIZER["model"], **changes}}


@pytest.mark.parametrize(
    "same",
    [
        dict(reversed(TOKENIZER.items())),
        with_model(merges=["a b"]),
        {**TOKENIZER, "truncation": {"max_length": 512}, "padding": {}},
        {**TOKENIZER, "version": "2.0"},
    ],
)
def test_a_tokenizer_that_was_saved_anew_is_the_same(tmp_path: Path, same: object) -> None:
    assert hash_of(tmp_path, TOKENIZER) == hash_of(tmp_path, same, indent=2)


@pytest.mark.parametrize(
    "other",
    [
        with_model(vocab={"a": 2, "b": 1, "ab": 3}),
        with_model(merges=[["b", "a"]]),
        {**TOKENIZER, "added_tokens": []},
        {**TOKENIZER, "normalizer": {"type": "Lowercase"}},
    ],
)
def test_what_makes_other_tokens_is_another(tmp_path: Path, other: object) -> None:
    assert hash_of(tmp_path, TOKENIZER) != hash_of(tmp_path, other)


def test_without_a_readable_file_nothing_is_known(tmp_path: Path) -> None:
    assert tokenizer_hash(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{")
    assert tokenizer_hash(tmp_path) is None
    assert hash_of(tmp_path, [1]) is None
