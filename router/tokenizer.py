"""The model's tokenizer: text and chats to token ids, and ids back to text."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence

from tokenizers import Tokenizer as Backend

from router.chat_template import ChatTemplate
from router.detokenizer import (
    ByteDetokenizer,
    Detokenizer,
    WindowDetokenizer,
    byte_alphabet,
    bytes_of,
)
from router.errors import InvalidRequest, StartError
from router.model_card import ModelCard


class Tokenizer:
    """Raises StartError when the tokenizer's file cannot be read."""

    def __init__(self, card: ModelCard) -> None:
        self._card = card
        self._backend = _load(card)
        self._special = frozenset(
            index
            for index, token in self._backend.get_added_tokens_decoder().items()
            if token.special
        )
        self._alphabet = byte_alphabet() if _is_byte_level(self._backend) else None
        self._template = (
            None
            if card.chat_template is None
            else ChatTemplate(card.chat_template, card.special_tokens)
        )
        self.token_bytes = functools.cache(self._token_bytes)

    def encode_text(self, text: str) -> list[int]:
        """With the special tokens (a beginning of sequence) that the tokenizer itself adds."""
        return self._backend.encode(text, add_special_tokens=True).ids

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Adds no special tokens: the template writes them. Raises InvalidRequest."""
        if self._template is None:
            raise InvalidRequest(
                f"model {self._card.name!r} has no chat template: send a text prompt instead",
                "messages",
            )
        text = self._template.render(messages)
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of whole sequences; special tokens leave none."""
        return self._backend.decode(tokens, skip_special_tokens=True)

    def token_text(self, token: int) -> str:
        """One token for display; halves of characters show as U+FFFD."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def detokenizer(self) -> Detokenizer:
        """A fresh stream of text."""
        if self._alphabet is not None:
            return ByteDetokenizer(self._visible_bytes)
        return WindowDetokenizer(self._decode_window, self._special)

    def _visible_bytes(self, token: int) -> bytes:
        return b"" if token in self._special else self.token_bytes(token)

    def _token_bytes(self, token: int) -> bytes:
        text = self._backend.id_to_token(token)
        if text is None:  # models pad their vocabulary beyond the tokenizer's
            return b""
        if self._alphabet is not None:
            return bytes_of(text, self._alphabet)
        return self._backend.decode([token], skip_special_tokens=False).encode()

    def _decode_window(self, tokens: list[int]) -> str:
        return self._backend.decode(tokens, skip_special_tokens=True)


def _load(card: ModelCard) -> Backend:
    try:
        backend = Backend.from_file(str(card.tokenizer_file))
    except Exception as error:  # the library raises nothing narrower
        raise StartError(
            f"{card.tokenizer_file} is no tokenizer that this release reads ({error}): "
            "save it again with a current tokenizers library"
        ) from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _is_byte_level(backend: Backend) -> bool:
    """True when the decoder is ByteLevel alone: then a token is its bytes, wherever it stands."""
    decoder = json.loads(backend.to_str())["decoder"]
    if decoder is None:
        return False
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    return [step["type"] for step in steps] == ["ByteLevel"]
