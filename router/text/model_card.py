"""What the router must know of a model, read from its directory without loading the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from router.errors import StartError


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """The text side of a model: its tokenizer file, template, special tokens and limits."""

    name: str
    tokenizer_file: Path
    chat_template: str | None
    tool_template: str | None = None
    """Another template for chats with tools, where the model has one."""
    special_tokens: dict[str, str]
    """"bos_token" and the like, as chat templates name them."""
    vocab_size: int
    max_model_len: int
    eos_token_ids: tuple[int, ...]


def read_model_card(directory: Path, name: str | None = None) -> ModelCard:
    """Raises StartError that names the file and the remedy when something is missing or broken."""
    if not directory.is_dir():
        raise StartError(f"{directory} is no directory: give a model directory with --model")
    tokenizer_file = directory / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise StartError(
            f"{tokenizer_file} is missing: save the model's fast tokenizer there "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(...) writes it)"
        )
    config = _text_config(_read_json(directory / "config.json", required=True))
    tokenizer_config = _read_json(directory / "tokenizer_config.json")
    generation_config = _read_json(directory / "generation_config.json")
    return ModelCard(
        name=name or directory.resolve().name,
        tokenizer_file=tokenizer_file,
        chat_template=_chat_template(directory, tokenizer_config),
        tool_template=_named_templates(tokenizer_config).get("tool_use"),
        special_tokens=_special_tokens(tokenizer_config),
        vocab_size=_number(config, "vocab_size", directory),
        max_model_len=_number(config, "max_position_embeddings", directory),
        eos_token_ids=_eos_token_ids(generation_config, config),
    )


def _read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    if not path.is_file():
        if required:
            raise StartError(f"{path} is missing: the router reads vocab_size and lengths from it")
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StartError(f"{path} is no JSON object ({error}): download the file again") from error


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    """Models of several modalities keep their language model's settings one level down."""
    nested = config.get("text_config")
    return {**config, **nested} if isinstance(nested, dict) else config


def _number(config: dict[str, Any], key: str, directory: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value <= 0:
        raise StartError(
            f"{directory / 'config.json'}: {key} is {value!r}: it must be a positive whole number"
        )
    return value


def _chat_template(directory: Path, tokenizer_config: dict[str, Any]) -> str | None:
    """A file of its own wins over the tokenizer's configuration, as elsewhere."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    return _named_templates(tokenizer_config).get("default")


def _named_templates(tokenizer_config: dict[str, Any]) -> dict[str, str]:
    """A model may have several; one alone is the default."""
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}
    return {"default": template} if isinstance(template, str) else {}


def _special_tokens(tokenizer_config: dict[str, Any]) -> dict[str, str]:
    """Entries are strings, or objects that hold one as "content"."""
    tokens = {}
    for key, value in tokenizer_config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(content, str):
            tokens[key] = content
    return tokens


def _eos_token_ids(*configs: dict[str, Any]) -> tuple[int, ...]:
    """From the first of `configs` that names any."""
    for config in configs:
        value = config.get("eos_token_id")
        if isinstance(value, int):
            return (value,)
        if isinstance(value, list) and value:
            return tuple(value)
    return ()
