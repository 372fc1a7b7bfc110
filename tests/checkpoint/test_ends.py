"""Where answers end: what the tokenizer calls its end counts beside config.json's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoint.ends import tokenizer_end
from checkpoint.errors import BrokenDirectory
from engine.errors import CheckpointError
from engine.model.config import read_config
from router.text.model_card import read_model_card
from tests.checkpoint.test_length import SHAPE
from tests.router.tokenizers import FAMILIES

pytestmark = pytest.mark.quick
TEXT_END, TURN_START, TURN_END = 0, 1, 2


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A chat model as many are published: config.json has the end of the model it was made of."""
    FAMILIES["qwen2"]().save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, "config.json", {**SHAPE, "max_position_embeddings": 64, "eos_token_id": 0})
    write(tmp_path, "tokenizer_config.json", {"eos_token": "<|im_end|>"})
    return tmp_path


def write(directory: Path, name: str, content: dict[str, Any]) -> None:
    (directory / name).write_text(json.dumps(content))


def ends(directory: Path) -> tuple[int, ...]:
    """As engine and router have them."""
    found = read_config(directory).eos_token_ids
    assert read_model_card(directory).eos_token_ids == found
    return found


def test_the_end_that_only_the_tokenizer_names_ends_an_answer(directory: Path) -> None:
    assert ends(directory) == (TEXT_END, TURN_END)


@pytest.mark.parametrize(
    ("listed", "expected"),
    [([0, 2], (0, 2)), (2, (2,)), ([1], (1, 2)), (None, (0, 2))],
)
def test_a_generation_config_is_filled_up(
    listed: object, expected: tuple[int, ...], directory: Path
) -> None:
    write(directory, "generation_config.json", {"eos_token_id": listed})
    assert ends(directory) == expected


def test_an_end_that_a_file_beside_names_counts(directory: Path) -> None:
    write(directory, "tokenizer_config.json", {})
    write(directory, "added_tokens.json", {"<end>": 63})
    write(directory, "special_tokens_map.json", {"eos_token": "<end>"})
    assert ends(directory) == (TEXT_END, 63)


def test_an_end_that_the_model_cannot_draw_is_none(directory: Path) -> None:
    write(directory, "tokenizer_config.json", {"eos_token": "<tool_call>"})
    assert FAMILIES["qwen2"]().token_to_id("<tool_call>") >= SHAPE["vocab_size"]
    assert ends(directory) == (TEXT_END,)


def test_without_a_tokenizer_there_is_none(tmp_path: Path) -> None:
    assert tokenizer_end(tmp_path, 64) is None


def test_a_broken_file_is_named(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(BrokenDirectory, match=r"tokenizer\.json cannot be read"):
        tokenizer_end(directory, 64)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        read_config(directory)
