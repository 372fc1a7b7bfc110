"""A tokenizer's added tokens in grammars.

Qwen, Hermes and DeepSeek write their marks (`<tool_call>`, `<think>`) as added tokens that are not
special: they decode to text like any other token. llguidance treats every added token as special,
which never matches the text of a grammar, so text tokens are moved into the model's vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

_SKIPPED = r'"(?:\\.|[^"\\\n])*"|/(?![/*])(?:\\.|[^/\\\n])+/|(?://|\#)[^\n]*'
"""Lark's literals, regular expressions and comments."""
_LARK = re.compile(rf"{_SKIPPED}|<(?P<name>[^<>\[\]\s\"/][^<>\s\"]*|/[^<>\s\"]+)>")


def added_tokens(tokenizer: Mapping[str, Any], *, special: bool) -> dict[str, int]:
    """Added tokens of a parsed tokenizer.json, special ones or text ones, by content."""
    return {
        added["content"]: added["id"]
        for added in tokenizer.get("added_tokens") or ()
        if added["special"] is special
    }


def with_plain_text_tokens(tokenizer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Move text tokens of a parsed tokenizer.json into the vocabulary of its model.

    Unigram vocabularies, which are no tables, are returned unchanged: their marks are special.
    """
    spell = _speller(tokenizer.get("decoder"))
    vocabulary = tokenizer["model"].get("vocab")
    moved = added_tokens(tokenizer, special=False)
    if spell is None or not isinstance(vocabulary, dict) or not moved:
        return tokenizer
    spelled = {spell(text): token for text, token in moved.items()}
    kept = {text: token for text, token in vocabulary.items() if text not in moved}
    special = [added for added in tokenizer["added_tokens"] if added["special"]]
    model = {**tokenizer["model"], "vocab": kept | spelled}
    return {**tokenizer, "added_tokens": special, "model": model}


def with_token_ids(lark: str, tokens: Mapping[str, int]) -> str:
    """Replace tokens that a Lark grammar names as <…> by their ids, as <[7]>."""

    def replaced(found: re.Match[str]) -> str:
        token = tokens.get(found[0]) if found["name"] else None
        return found[0] if token is None else f"<[{token}]>"

    return _LARK.sub(replaced, lark)


def _speller(decoder: Any) -> Callable[[str], str] | None:
    """A function from text to its spelling in the vocabulary; None for an unknown decoder."""
    steps = (decoder or {}).get("decoders", [decoder or {}])
    kinds = {step.get("type") for step in steps}
    if "ByteLevel" in kinds:
        return _in_byte_level
    return (lambda text: text.replace(" ", "▁")) if "ByteFallback" in kinds else None


def _in_byte_level(text: str) -> str:
    parts = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return "".join(part for part, _ in parts)
