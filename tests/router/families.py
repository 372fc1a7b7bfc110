"""Model directories with the tokenizers of tests.router.tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

from router.text.model_card import read_model_card
from router.text.tokenizer import Tokenizer
from tests.router.tokenizers import FAMILIES


def write_family(name: str, directory: Path) -> Path:
    """As far as the router and transformers read it."""
    directory.mkdir(parents=True, exist_ok=True)
    backend = FAMILIES[name]()
    backend.save(str(directory / "tokenizer.json"))
    config = {"vocab_size": backend.get_vocab_size(), "max_position_embeddings": 64}
    (directory / "config.json").write_text(json.dumps(config))
    fast = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps(fast))
    return directory


def family_tokenizer(name: str, directory: Path) -> Tokenizer:
    return Tokenizer(read_model_card(write_family(name, directory)))
