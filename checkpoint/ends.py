"""The end-of-sequence token of a model's tokenizer."""

from __future__ import annotations

from pathlib import Path

import msgspec

from checkpoint.errors import BrokenDirectory
from checkpoint.tokens import extra_tokens, special_tokens


class _Added(msgspec.Struct):
    id: int
    content: str


class _TokenizerFile(msgspec.Struct):
    """The part of tokenizer.json that is read; its vocabulary may have megabytes."""

    added_tokens: list[_Added] = []


def tokenizer_end(directory: Path, vocab_size: int) -> int | None:
    """The id of `eos_token`; None if no added token has that text, or its id is beyond the
    vocabulary.

    Fine-tuned chat models often name the end of a turn only there, while their config.json still
    has the base model's end of text. Raises BrokenDirectory.
    """
    name = special_tokens(directory).get("eos_token")
    if name is None:
        return None
    in_file = ((token.content, token.id) for token in _read(directory / "tokenizer.json"))
    beside = ((token.content, token.id) for token in extra_tokens(directory))
    found = next((index for content, index in (*in_file, *beside) if content == name), None)
    return None if found is None or found >= vocab_size else found


def _read(path: Path) -> list[_Added]:
    if not path.is_file():
        return []
    try:
        return msgspec.json.decode(path.read_bytes(), type=_TokenizerFile).added_tokens
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BrokenDirectory(f"{path} cannot be read ({error}): download it again") from error
