"""The model's tokenizer: text and chats to token ids, and ids back to text."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence

from tokenizers import Tokenizer as Backend

from router.errors import InvalidRequest, StartError
from router.prompts import ChatPrompt
from router.text.chat_template import ChatTemplate, model_template, request_template
from router.text.detokenizer import (
    ByteDetokenizer,
    Detokenizer,
    Piece,
    WindowDetokenizer,
    byte_alphabet,
    bytes_of,
    piece_of,
)
from router.text.length_bound import LengthBound, length_bound
from router.text.model_card import ModelCard


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
        self._template = _template(card.chat_template, card)
        self._tool_template = _template(card.tool_template, card) or self._template
        self.token_bytes = functools.cache(self._token_bytes)
        self._pieces = functools.cache(self._make_pieces)

    def encode_text(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """With the special tokens (a beginning of sequence) that the tokenizer itself adds, or
        without; names of special tokens in the text are those tokens either way."""
        # A batch, since `encode` keeps Python's lock; "fast", since nobody asks where tokens stand.
        batch = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return batch[0].ids

    def encode_chat(self, prompt: ChatPrompt) -> list[int]:
        """As a rule the template writes the special tokens. Raises InvalidRequest."""
        return self.encode_text(self.render(prompt), add_special_tokens=prompt.add_special_tokens)

    def render(self, prompt: ChatPrompt) -> str:
        """A chat as its template shows it to the model. Raises InvalidRequest."""
        return self._template_for(prompt).render(prompt)

    def fewest_tokens(self, text: str) -> int:
        """That a text can have; 0 where only tokenizing tells. Raises UnicodeEncodeError."""
        return 0 if self._length_bound is None else self._length_bound.fewest_tokens(text)

    @functools.cached_property
    def _length_bound(self) -> LengthBound | None:
        """Made when the first long text comes."""
        return None if self._alphabet is None else length_bound(self._backend, self._alphabet)

    def _template_for(self, prompt: ChatPrompt) -> ChatTemplate:
        if prompt.template is not None:
            return request_template(prompt.template, self._card.special_tokens)
        template = self._tool_template if prompt.tools else self._template
        if template is None:
            raise InvalidRequest(
                f"model {self._card.name!r} has no chat template: send a text prompt instead",
                "messages",
            )
        return template

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of whole sequences; special tokens leave none, if they are skipped."""
        # A batch for the reason of `encode_text`.
        return self._backend.decode_batch([tokens], skip_special_tokens=skip_special_tokens)[0]

    def token_text(self, token: int) -> str:
        """One token for display; halves of characters show as U+FFFD."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def special_token_id(self, text: str) -> int | None:
        """None when there is no special token of that name."""
        token: int | None = self._backend.token_to_id(text)
        return token if token in self._special else None

    def detokenizer(
        self, *, skip_special_tokens: bool = True, shown: frozenset[int] = frozenset()
    ) -> Detokenizer:
        """A fresh stream of text. Special tokens that are `shown` are never skipped."""
        silent = self._special - shown if skip_special_tokens else frozenset[int]()
        if self._alphabet is not None:
            return ByteDetokenizer(self._pieces(silent))
        if silent == self._special:
            return WindowDetokenizer(self._decode_window, silent)
        return WindowDetokenizer(self._decode_all, silent)

    def _make_pieces(self, silent: frozenset[int]) -> Callable[[int], Piece]:
        """Of streams in which these tokens say nothing."""
        return functools.cache(
            lambda token: piece_of(b"" if token in silent else self.token_bytes(token))
        )

    def _token_bytes(self, token: int) -> bytes:
        text = self._backend.id_to_token(token)
        if text is None:  # models pad their vocabulary beyond the tokenizer's
            return b""
        if self._alphabet is not None:
            return bytes_of(text, self._alphabet)
        return self._backend.decode([token], skip_special_tokens=False).encode()

    def _decode_window(self, tokens: list[int]) -> str:
        return self._backend.decode(tokens, skip_special_tokens=True)

    def _decode_all(self, tokens: list[int]) -> str:
        return self._backend.decode(tokens, skip_special_tokens=False)


def _template(source: str | None, card: ModelCard) -> ChatTemplate | None:
    return None if source is None else model_template(source, card.special_tokens)


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
