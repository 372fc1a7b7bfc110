"""How long a model's sequences can be: engine and router say the same number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoint.length import model_length
from engine.errors import CheckpointError
from engine.model.config import read_config
from router.errors import StartError
from router.text.model_card import read_model_card

pytestmark = pytest.mark.quick

SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0}
LENGTHS: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({"max_position_embeddings": 128}, 128),
    "linear": (
        {"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}},
        16384,
    ),
    "dynamic": (
        {"max_position_embeddings": 128, "rope_scaling": {"rope_type": "dynamic", "factor": 4}},
        512,
    ),
    "yarn, Qwen2.5's recipe": (
        {
            "max_position_embeddings": 32768,
            "rope_scaling": {**YARN, "original_max_position_embeddings": 32768},
        },
        131072,
    ),
    "yarn, Qwen3's recipe": (
        {
            "max_position_embeddings": 40960,
            "rope_scaling": {**YARN, "original_max_position_embeddings": 32768},
        },
        131072,
    ),
    "yarn, extended already": (
        {
            "max_position_embeddings": 131072,
            "rope_parameters": {
                **YARN,
                "rope_theta": 10000.0,
                "original_max_position_embeddings": 32768,
            },
        },
        131072,
    ),
    "yarn without an original length": (
        {"max_position_embeddings": 128, "rope_scaling": YARN},
        512,
    ),
    "llama3": ({"max_position_embeddings": 131072, "rope_scaling": LLAMA3}, 131072),
    "default, with a factor that means nothing": (
        {"max_position_embeddings": 64, "rope_parameters": {"rope_type": "default", "factor": 2}},
        64,
    ),
}


def write(directory: Path, config: dict[str, Any]) -> Path:
    (directory / "config.json").write_text(json.dumps({**SHAPE, **config}))
    (directory / "tokenizer.json").write_text("{}")
    return directory


@pytest.mark.parametrize("case", LENGTHS)
def test_engine_and_router_say_the_same(case: str, tmp_path: Path) -> None:
    config, length = LENGTHS[case]
    directory = write(tmp_path, config)
    assert read_config(directory).max_model_len == length
    assert read_model_card(directory).max_model_len == length


def test_longrope_is_extended_already() -> None:
    scaling = {"type": "longrope", "short_factor": [1.0], "long_factor": [4.0]}
    extended = {"max_position_embeddings": 131072, "rope_scaling": scaling}
    assert model_length({**extended, "original_max_position_embeddings": 4096}) == 131072


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_position_embeddings": 0},
        {"max_position_embeddings": True},
        {"max_position_embeddings": 64, "rope_scaling": {"type": "linear", "factor": "4"}},
        {"max_position_embeddings": 64, "rope_scaling": {"type": "linear"}},
        {"max_position_embeddings": 64, "rope_scaling": {"type": "dynamic", "factor": -1}},
    ],
)
def test_a_useless_number_is_named_by_both(config: dict[str, Any], tmp_path: Path) -> None:
    directory = write(tmp_path, config)
    for read, kind in ((read_config, CheckpointError), (read_model_card, StartError)):
        with pytest.raises(kind, match=r"config\.json.*(max_position_embeddings|factor)"):
            read(directory)
