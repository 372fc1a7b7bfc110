"""The model's tokenizer: texts and chats to token ids, and token ids to text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from tokenizers import Tokenizer as Backend

from checkpoint.errors import BrokenDirectory
from checkpoint.tokenizer import load_tokenizer
from router.errors import InvalidRequest, StartError
from router.requests.prompts import ChatPrompt, Prompt, TextPrompt
from router.text.chat_template import ChatTemplate, model_template, request_template
from router.text.detokenizer import (
    REPLACEMENT,
    ByteDetokenizer,
    Detokenizer,
    TokenText,
    WindowDetokenizer,
    piece_of,
)
from router.text.length_bound import LengthBound, length_bound
from router.text.model_card import ModelCard
from router.text.token_bytes import TokenBytes, token_text

LINE_END = "\n"
"""Never merged into one token with the following word."""


class Tokenizer:
    """A model's tokenizer with its chat templates. Raises StartError if its file cannot be read."""

    def __init__(self, card: ModelCard) -> None:
        self._card = card
        self._backend = _load(card)
        self._special = frozenset(
            index
            for index, token in self._backend.get_added_tokens_decoder().items()
            if token.special
        )
        self.token_bytes = TokenBytes(self._backend)
        self._alphabet = self.token_bytes.alphabet
        self._template = _template(card.chat_template, card)
        self._tool_template = _template(card.tool_template, card) or self._template
        self._pieces = functools.cache(self._make_pieces)

    def encode_text(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The token ids, with or without the special tokens that the tokenizer adds itself.

        Names of special tokens in the text become those tokens in either case.
        """
        # `encode` holds the GIL, a batch does not; "fast" skips the tokens' offsets.
        batch = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return batch[0].ids

    def encode_inside(self, text: str) -> list[int]:
        """The token ids as in the middle of a text; some tokenizers put a space before the first
        word."""
        before = self.encode_text(LINE_END, add_special_tokens=False)
        ids = self.encode_text(LINE_END + text, add_special_tokens=False)
        parted = ids[: len(before)] == before
        return ids[len(before) :] if parted else self.encode_text(text, add_special_tokens=False)

    def encode_chat(self, prompt: ChatPrompt) -> list[int]:
        """The chat's token ids; usually its template writes the special tokens. Raises
        InvalidRequest."""
        return self.encode_text(self.render(prompt), add_special_tokens=prompt.add_special_tokens)

    def render(self, prompt: ChatPrompt) -> str:
        """A chat as its template presents it to the model. Raises InvalidRequest."""
        return self._template_for(prompt).render(prompt)

    def min_num_tokens(self, text: str) -> int:
        """A lower bound on the text's number of tokens; 0 if there is none. Raises
        UnicodeEncodeError."""
        return 0 if self._length_bound is None else self._length_bound.min_num_tokens(text)

    @functools.cached_property
    def _length_bound(self) -> LengthBound | None:
        """Created for the first long text."""
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
        """The text of a complete sequence; special tokens are optionally skipped."""
        # A batch, for the same reason as in `encode_text`.
        return self._backend.decode_batch([tokens], skip_special_tokens=skip_special_tokens)[0]

    def echo(self, prompt: Prompt | None, tokens: Sequence[int]) -> str:
        """The prompt's text: as sent, or decoded from token ids without an incomplete character at
        the end."""
        if isinstance(prompt, TextPrompt):
            return prompt.text
        text = self.decode(tokens)
        if not text.endswith(REPLACEMENT):
            return text
        return "".join(map(self.detokenizer().push, tokens))

    def token_text(self, token: int) -> str:
        """One token for display; incomplete characters as bytes."""
        return token_text(self.token_bytes(token))

    def special_token_id(self, text: str) -> int | None:
        """The id of a special token; None if there is none of that name."""
        token: int | None = self._backend.token_to_id(text)
        return token if token in self._special else None

    @functools.cached_property
    def special_texts(self) -> dict[int, str]:
        """The names of special tokens by id, in the order of their ids."""
        return {token: self.token_text(token) for token in sorted(self._special)}

    def detokenizer(
        self,
        *,
        skip_special_tokens: bool = True,
        shown: frozenset[int] = frozenset(),
        context: Sequence[int] = (),
    ) -> Detokenizer:
        """A new stream of text that follows the tokens of `context`. Special tokens in `shown` are
        never skipped."""
        silent = self._special - shown if skip_special_tokens else frozenset[int]()
        if self._alphabet is not None:
            return ByteDetokenizer(self._pieces(silent), context)
        return WindowDetokenizer(self._decode_all, silent, context)

    def _make_pieces(self, silent: frozenset[int]) -> Callable[[int], TokenText]:
        """The texts of tokens in streams that skip the tokens in `silent`."""
        return functools.cache(
            lambda token: piece_of(b"" if token in silent else self.token_bytes(token))
        )

    def _decode_all(self, tokens: list[int]) -> str:
        return self._backend.decode(tokens, skip_special_tokens=False)


def _template(source: str | None, card: ModelCard) -> ChatTemplate | None:
    return None if source is None else model_template(source, card.special_tokens)


def _load(card: ModelCard) -> Backend:
    try:
        return load_tokenizer(card.tokenizer_file.parent)
    except BrokenDirectory as error:
        raise StartError(str(error)) from error
