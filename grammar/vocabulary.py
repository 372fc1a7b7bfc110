"""A model's vocabulary as bytes, against which grammars are matched."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from llguidance import LLTokenizer

from checkpoint.errors import BrokenDirectory
from checkpoint.tokenizer import load_tokenizer
from grammar.added_tokens import added_tokens, with_plain_text_tokens
from grammar.errors import VocabularyError


class Vocabulary:
    """A tokenizer for llguidance, which threads may share.

    `eos_token_ids` are those that end an answer; a grammar allows all of them, or none.
    """

    def __init__(
        self,
        tokenizer: LLTokenizer,
        vocab_size: int,
        eos_token_ids: frozenset[int],
        text_tokens: Mapping[str, int],
        special_tokens: Mapping[str, int],
    ) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.eos_token_ids = eos_token_ids
        self.text_tokens = text_tokens
        """Added tokens that are text, by their content."""
        self.special_tokens = special_tokens


def read_vocabulary(
    tokenizer_file: Path, vocab_size: int, eos_token_ids: Collection[int]
) -> Vocabulary:
    """Read a Hugging Face tokenizer.json, with the tokens that files beside it add, in up to a
    second for a large one; `vocab_size` is the model's, which may be padded.

    Raises VocabularyError that names the file.
    """
    if not eos_token_ids:
        raise VocabularyError(
            f"the model beside {tokenizer_file} names no eos_token_id: an answer that follows a "
            "grammar could not end"
        )
    try:
        parsed = json.loads(load_tokenizer(tokenizer_file.parent).to_str())
        text = json.dumps(with_plain_text_tokens(parsed))
        tokenizer = LLTokenizer(text, n_vocab=vocab_size, eos_token=sorted(eos_token_ids))
    except (BrokenDirectory, ValueError, LookupError, TypeError) as error:
        raise VocabularyError(
            f"{tokenizer_file} cannot be matched against grammars: {error}"
        ) from error
    return Vocabulary(
        tokenizer,
        vocab_size,
        frozenset(eos_token_ids),
        added_tokens(parsed, special=False),
        added_tokens(parsed, special=True),
    )
