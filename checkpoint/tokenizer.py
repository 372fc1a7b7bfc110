"""Loads a model's tokenizer, including tokens that only other files of the directory name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from checkpoint.errors import BrokenDirectory
from checkpoint.tokens import ExtraToken, extra_tokens

log = logging.getLogger("tandem.checkpoint")


def load_tokenizer(directory: Path) -> Tokenizer:
    """Load the tokenizer. Raises BrokenDirectory if tokenizer.json, or a file beside it, cannot be
    read."""
    path = directory / "tokenizer.json"
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise BrokenDirectory(
            f"{path} is no tokenizer that this release reads ({error}): "
            "save it again with a current tokenizers library"
        ) from error
    backend.no_truncation()
    backend.no_padding()
    _add(backend, extra_tokens(directory), directory)
    return backend


def _add(backend: Tokenizer, tokens: Sequence[ExtraToken], directory: Path) -> None:
    """Add tokens that tokenizer.json lacks, or has with other flags.

    A listed id cannot be enforced: a token that gets another id is logged.
    """
    known = {repr(token) for token in backend.get_added_tokens_decoder().values()}
    names = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token in tokens:
        added = token.added
        listed_differently = token.id is not None and repr(added) not in known
        if token.content not in names or listed_differently:
            (backend.add_special_tokens if added.special else backend.add_tokens)([added])
        found = backend.token_to_id(token.content)
        if token.id is not None and found != token.id:
            log.warning(
                "%s: token %r has id %d in tokenizer_config.json or added_tokens.json, and %s in "
                "tokenizer.json, which is used", directory, token.content, token.id, found,
            )  # fmt: skip
