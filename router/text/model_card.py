"""The router's view of a model: tokenizer file, chat templates, lengths; read without its
weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from checkpoint.ends import tokenizer_end
from checkpoint.errors import BrokenDirectory
from checkpoint.json_file import read_object
from checkpoint.length import model_length
from checkpoint.templates import read_templates
from checkpoint.tokens import special_tokens
from router.errors import StartError


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """Tokenizer file, chat templates, special tokens and limits of a model."""

    name: str
    tokenizer_file: Path
    chat_template: str | None
    tool_template: str | None = None
    """Template for chats with tools, if the model has another one."""
    special_tokens: dict[str, str]
    """Special tokens by their names in chat templates, such as "bos_token"."""
    vocab_size: int
    max_model_len: int
    eos_token_ids: tuple[int, ...]
    generation: dict[str, Any] = {}
    """Content of generation_config.json."""


def read_model_card(directory: Path, name: str | None = None) -> ModelCard:
    """Read a model directory. Raises StartError, which names the missing or broken file and the
    remedy."""
    if not directory.is_dir():
        raise StartError(f"{directory} is not a directory: give a model directory with --model")
    tokenizer_file = directory / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise StartError(
            f"{tokenizer_file} is missing: save the model's fast tokenizer there "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(...) writes it)"
        )
    try:
        return _read(directory, tokenizer_file, name or directory.resolve().name)
    except BrokenDirectory as error:
        raise StartError(str(error)) from error


def _read(directory: Path, tokenizer_file: Path, name: str) -> ModelCard:
    if not (directory / "config.json").is_file():
        path = directory / "config.json"
        raise StartError(f"{path} is missing: the router reads vocab_size and lengths from it")
    config = _text_config(read_object(directory / "config.json"))
    generation_config = read_object(directory / "generation_config.json")
    templates = read_templates(directory)
    vocab_size = _number(config, "vocab_size", directory)
    return ModelCard(
        name=name,
        tokenizer_file=tokenizer_file,
        chat_template=templates.get("default"),
        tool_template=templates.get("tool_use"),
        special_tokens=special_tokens(directory),
        vocab_size=vocab_size,
        max_model_len=_length(config, directory),
        eos_token_ids=_ends(tokenizer_end(directory, vocab_size), generation_config, config),
        generation=generation_config,
    )


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's settings, which multimodal models nest one level deeper."""
    nested = config.get("text_config")
    return {**config, **nested} if isinstance(nested, dict) else config


def _number(config: dict[str, Any], key: str, directory: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value <= 0:
        raise StartError(
            f"{directory / 'config.json'}: {key} is {value!r}: it must be a positive whole number"
        )
    return value


def _length(config: dict[str, Any], directory: Path) -> int:
    try:
        return model_length(config)
    except ValueError as error:
        raise StartError(f"{directory / 'config.json'}: {error}") from error


def _ends(own: int | None, *configs: dict[str, Any]) -> tuple[int, ...]:
    """The end-of-sequence tokens, as workers have them; `own` is the tokenizer's."""
    ids = _eos_token_ids(*configs)
    return ids if own is None or own in ids else (*ids, own)


def _eos_token_ids(*configs: dict[str, Any]) -> tuple[int, ...]:
    """The ids in the first of `configs` that has any."""
    for config in configs:
        value = config.get("eos_token_id")
        if isinstance(value, int):
            return (value,)
        if isinstance(value, list) and value:
            return tuple(value)
    return ()
