"""The bytes that each token stands for in the middle of a text."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from tokenizers import Tokenizer as Backend

from router.text.detokenizer import byte_alphabet, bytes_of

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """Callable with a token id; `alphabet` is that of a byte-level decoder, None for others."""

    def __init__(self, backend: Backend) -> None:
        steps = _decoder_steps(backend)
        self.alphabet = byte_alphabet() if steps == ["ByteLevel"] else None
        self._falls_back = "ByteFallback" in steps
        self._backend = backend
        self._cached = functools.cache(self._bytes)

    def __call__(self, token: int) -> bytes:
        """Empty for ids beyond the tokenizer's: models pad their vocabulary."""
        return self._cached(token)

    def _bytes(self, token: int) -> bytes:
        content = self._backend.id_to_token(token)
        if content is None:
            return b""
        if self.alphabet is not None:
            return bytes_of(content, self.alphabet)
        byte = _BYTE_TOKEN.fullmatch(content) if self._falls_back else None
        return bytes([int(byte[1], 16)]) if byte is not None else self._after_itself(token)

    def _after_itself(self, token: int) -> bytes:
        """Decoders drop a blank before the first token, so the second of two is told."""
        once, twice = self._backend.decode_batch(
            [[token], [token, token]], skip_special_tokens=False
        )
        return twice[len(once) :].encode()


def token_text(content: bytes) -> str:
    """For display, another text for other bytes: parts of characters as OpenAI's API has them."""
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
