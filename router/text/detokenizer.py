"""Incremental detokenization: token ids to text, never showing an incomplete character.

Byte-level tokenizers (the most common) map each token to bytes by a table, so an incremental UTF-8
decoder is exact. Others (such as SentencePiece, with rules for leading spaces) decode a small
window of tokens, and cut off the text that the window had before.

Decoders drop the space before the first word of their input, but an answer continues a text. So a
stream starts with the end of the prompt as context, which is not shown.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

REPLACEMENT = "\ufffd"


class TokenText(NamedTuple):
    """The bytes and text of a token."""

    content: bytes
    text: str | None
    """The token's text; None unless it is ASCII, since otherwise its text depends on its
    neighbours."""


class Detokenizer(Protocol):
    """The state of one stream."""

    def push(self, token: int) -> str:
        """The text that this token completes; may be empty."""

    def flush(self) -> str:
        """The text held back so far, at the end of the stream."""


class ByteDetokenizer:
    """For tokenizers whose tokens are byte strings; constant work per token."""

    CONTEXT_BYTES = 3  # at most three bytes of an incomplete character can precede

    def __init__(self, pieces: Callable[[int], TokenText], context: Sequence[int] = ()) -> None:
        """`context` are the tokens before the stream; it may end within a character."""
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_complete = True
        """No character is incomplete."""
        before = b""
        for token in reversed(context):
            if len(before) >= self.CONTEXT_BYTES:
                break
            before = pieces(token).content + before
        self._decode(before)

    def push(self, token: int) -> str:
        content, text = self._pieces(token)
        if text is not None and self._is_complete:  # the fast path for nearly all tokens
            return text
        return self._decode(content)

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)

    def _decode(self, content: bytes) -> str:
        text = self._decoder.decode(content)
        self._is_complete = not self._decoder.getstate()[0]
        return text


class WindowDetokenizer:
    """For any decoder whose text only grows with more tokens, apart from trailing replacement
    characters.

    `_window[:_boundary]` ends where no character was incomplete; a long window is cut there, which
    bounds the work per token.
    """

    MAX_WINDOW = 12
    MAX_BROKEN = 48  # so many tokens cannot be one character: the bytes are invalid
    MAX_HELD = 3  # a character has at most four bytes, so at most three can be incomplete
    MIN_CONTEXT = 4

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        silent: frozenset[int],
        context: Sequence[int] = (),
    ) -> None:
        """`silent` are special tokens without text, which never enter the window. `context` are the
        tokens before the stream."""
        self._decode = decode
        self._silent = silent
        self._window: list[int] = []
        self._boundary = 0
        self._shown = ""
        if context:
            self._begin_after(context)

    def push(self, token: int) -> str:
        if token in self._silent:
            return ""
        self._window.append(token)
        text = self._decode(self._window)
        if not text.endswith(REPLACEMENT):
            new = self._take(text)
            self._mark_boundary()
        elif len(self._window) < self.MAX_BROKEN:
            # One incomplete byte can invalidate the whole run of bytes around it.
            first = text.find(REPLACEMENT, len(self._shown))
            new = self._take(text[: max(0, first)])
        else:
            new = self._take(_without_tail(text, self.MAX_HELD))
            self._cut(len(self._window) - self.MAX_HELD)
        return new

    def flush(self) -> str:
        return self._take(self._decode(self._window)) if self._window else ""

    def _begin_after(self, context: Sequence[int]) -> None:
        """Start with the last tokens of the context, as many as form whole characters, within
        bounds."""
        heard = (token for token in reversed(context) if token not in self._silent)
        last = [*islice(heard, self.MAX_BROKEN // 2)][::-1]
        for count in range(self.MIN_CONTEXT, len(last)):
            if REPLACEMENT not in self._decode(last[-count:]):
                last = last[-count:]
                break
        self._window = last
        for num_broken in range(min(self.MAX_HELD, len(last)) + 1):
            self._shown = self._decode(last[: len(last) - num_broken])
            if not self._shown.endswith(REPLACEMENT):
                self._boundary = 0 if num_broken else len(last)
                return

    def _take(self, text: str) -> str:
        """The part of `text` that was not shown yet."""
        if len(text) <= len(self._shown):
            return ""
        new, self._shown = text[len(self._shown) :], text
        return new

    def _mark_boundary(self) -> None:
        if len(self._window) > self.MAX_WINDOW and self._boundary:
            self._cut(self._boundary)
        self._boundary = len(self._window)

    def _cut(self, start: int) -> None:
        """Drop the tokens before `start`; the rest remains as context."""
        self._window = self._window[start:]
        text = self._decode(self._window)
        self._shown = text if not text.endswith(REPLACEMENT) else _without_tail(text, self.MAX_HELD)
        self._boundary = 0


def _without_tail(text: str, limit: int) -> str:
    """`text` without its last replacement characters, `limit` of them at most."""
    end = len(text)
    while end > max(0, len(text) - limit) and text[end - 1] == REPLACEMENT:
        end -= 1
    return text[:end]


def byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE represents bytes; printable ones represent themselves.

    As in GPT-2's encoder (Radford et al., 2019), all other bytes are mapped to U+0100 and
    following.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet


def piece_of(content: bytes) -> TokenText:
    return TokenText(content, content.decode("ascii") if content.isascii() else None)


def bytes_of(token: str, alphabet: dict[str, int]) -> bytes:
    """The bytes of one byte-level token; a token with other characters stands for its own text."""
    try:
        return bytes(alphabet[character] for character in token)
    except KeyError:
        return token.encode()


def detokenize(detokenizer: Detokenizer, tokens: Iterable[int]) -> str:
    """The text of all tokens at once."""
    return "".join([*map(detokenizer.push, tokens), detokenizer.flush()])
