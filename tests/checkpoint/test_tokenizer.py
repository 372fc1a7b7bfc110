"""Tokens that only files beside tokenizer.json name, as transformers reads them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from checkpoint.errors import BrokenDirectory
from checkpoint.tokenizer import load_tokenizer
from checkpoint.tokens import special_tokens
from grammar.vocabulary import read_vocabulary
from tests.router.tokenizers import FAMILIES

pytestmark = pytest.mark.quick

FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
TEXT = "<s>a<extra>b <think> c</s>"


def entry(content: str, *, special: bool = False) -> dict[str, Any]:
    return {
        "content": content,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
        "normalized": False,
        "special": special,
    }


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    FAMILIES["llama2"]().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def write(directory: Path, name: str, content: object) -> None:
    (directory / name).write_text(json.dumps(content))


def next_id(directory: Path) -> int:
    return load_tokenizer(directory).get_vocab_size(with_added_tokens=True)


def assert_same_as_transformers(directory: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(str(directory))
    ours = load_tokenizer(directory)
    ids = theirs.encode(TEXT)
    assert ours.encode(TEXT).ids == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    names = {"bos_token", "eos_token"}
    assert {name: text for name, text in special_tokens(directory).items() if name in names} == {
        name: text for name, text in theirs.special_tokens_map.items() if name in names
    }


def test_the_tokens_of_tokenizer_config_are_whole(directory: Path) -> None:
    first = next_id(directory)
    tokens = {str(first): entry("<extra>", special=True), str(first + 1): entry("<think>")}
    write(directory, "tokenizer_config.json", {**FAST, "added_tokens_decoder": tokens})
    backend = load_tokenizer(directory)
    assert backend.encode("a<think>").tokens[-1] == "<think>"
    assert (backend.token_to_id("<extra>"), backend.token_to_id("<think>")) == (first, first + 1)
    assert_same_as_transformers(directory)


def test_the_flags_of_tokenizer_config_win(directory: Path) -> None:
    backend = load_tokenizer(directory)
    end = backend.token_to_id("</s>")
    tokens = {str(end): entry("</s>", special=False)}
    write(directory, "tokenizer_config.json", {**FAST, "added_tokens_decoder": tokens})
    assert not load_tokenizer(directory).get_added_tokens_decoder()[end].special
    assert_same_as_transformers(directory)


def test_an_older_directorys_added_tokens_are_whole(directory: Path) -> None:
    first = next_id(directory)
    write(directory, "added_tokens.json", {"<think>": first + 1, "<extra>": first})
    special = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "additional_special_tokens": ["<extra>"],
    }
    write(directory, "special_tokens_map.json", special)
    write(directory, "tokenizer_config.json", FAST)
    backend = load_tokenizer(directory)
    assert backend.token_to_id("<think>") == first + 1
    assert backend.decode([first, first + 1]) == "<think>"
    assert special_tokens(directory)["bos_token"] == "<s>"
    assert backend.encode("a<extra>b<think>", add_special_tokens=False).tokens[1::2] == [
        "<extra>",
        "<think>",
    ]


def test_an_older_directory_has_the_ids_that_transformers_gives_it(tmp_path: Path) -> None:
    FAMILIES["qwen2"]().save(str(tmp_path / "tokenizer.json"))
    first = next_id(tmp_path)
    write(tmp_path, "added_tokens.json", {"<think>": first, "<extra>": first + 1})
    write(tmp_path, "special_tokens_map.json", {"eos_token": "<|im_end|>"})
    write(tmp_path, "tokenizer_config.json", FAST)
    assert_same_as_transformers(tmp_path)


def test_a_special_token_known_by_name_alone_is_added(directory: Path) -> None:
    write(directory, "tokenizer_config.json", {**FAST, "bos_token": "<s>", "eos_token": "<extra>"})
    assert load_tokenizer(directory).encode("a<extra>").tokens[-1] == "<extra>"
    assert_same_as_transformers(directory)


def test_a_current_configuration_needs_no_map_of_special_tokens(directory: Path) -> None:
    """As in transformers: what is listed with its flags is all there is."""
    config = {**FAST, "bos_token": "<s>", "added_tokens_decoder": {}}
    write(directory, "tokenizer_config.json", config)
    write(directory, "special_tokens_map.json", {"bos_token": "</s>", "eos_token": "</s>"})
    assert special_tokens(directory) == {"bos_token": "<s>"}
    assert_same_as_transformers(directory)


def test_grammars_know_these_tokens_too(directory: Path) -> None:
    first = next_id(directory)
    tokens = {str(first): entry("<tool_call>")}
    write(directory, "tokenizer_config.json", {**FAST, "added_tokens_decoder": tokens})
    vocabulary = read_vocabulary(directory / "tokenizer.json", first + 1, [2])
    assert vocabulary.text_tokens["<tool_call>"] == first


def test_a_listed_id_that_is_taken_is_told(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(directory, "tokenizer_config.json", {"added_tokens_decoder": {"5000": entry("<extra>")}})
    with caplog.at_level(logging.WARNING):
        load_tokenizer(directory)
    assert "'<extra>' has id 5000" in caplog.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": ["<extra>"]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": entry("<extra>")}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": {"special": True}}}),
        ("added_tokens.json", {"<extra>": "7"}),
        ("special_tokens_map.json", ["<s>"]),
    ],
)
def test_a_broken_file_is_named(name: str, content: object, directory: Path) -> None:
    write(directory, name, content)
    with pytest.raises(BrokenDirectory, match=name):
        load_tokenizer(directory)
