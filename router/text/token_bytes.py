"""The bytes of each token, as they appear in the middle of a text."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from tokenizers import Tokenizer as Backend

from router.text.detokenizer import byte_alphabet, bytes_of

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """Maps token ids to bytes. `alphabet` is the byte-level decoder's, None for other decoders."""

    def __init__(self, backend: Backend) -> None:
        steps = _decoder_steps(backend)
        self.alphabet = byte_alphabet() if steps == ["ByteLevel"] else None
        self._has_byte_fallback = "ByteFallback" in steps
        self._backend = backend
        self._cached = functools.cache(self._bytes)

    def __call__(self, token: int) -> bytes:
        """The token's bytes; empty for padding ids beyond the tokenizer's vocabulary."""
        return self._cached(token)

    def _bytes(self, token: int) -> bytes:
        content = self._backend.id_to_token(token)
        if content is None:
            return b""
        if self.alphabet is not None:
            return bytes_of(content, self.alphabet)
        byte = _BYTE_TOKEN.fullmatch(content) if self._has_byte_fallback else None
        return bytes([int(byte[1], 16)]) if byte is not None else self._text_after_itself(token)

    def _text_after_itself(self, token: int) -> bytes:
        """The token's text after itself, since decoders drop a space before the first token."""
        once, twice = self._backend.decode_batch(
            [[token], [token, token]], skip_special_tokens=False
        )
        return twice[len(once) :].encode()


def token_text(content: bytes) -> str:
    """A token's text for display; incomplete characters as escaped bytes, as in OpenAI's API."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def _decoder_steps(backend: Backend) -> list[str]:
    decoder: dict[str, Any] | None = json.loads(backend.to_str())["decoder"]
    if decoder is None:
        return []
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    return [step["type"] for step in steps]
