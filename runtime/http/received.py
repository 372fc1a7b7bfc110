"""The receive buffer of a connection."""

from __future__ import annotations

import re

from runtime.http.errors import BadRequest

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 256
_END = b"\r\n\r\n"
# Ambiguous in HTTP, and a means of request smuggling: CR or LF alone, NUL, and headers continued on
# the next line.
_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|\n[ \t]|\0")


class Received:
    """Bytes that no request has taken yet. `take_head` returns a request line with its headers."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._seen = 0
        """Number of bytes already searched for the end and for ambiguous characters."""

    def __len__(self) -> int:
        return len(self._bytes)

    def add(self, data: bytes) -> None:
        self._bytes += data

    def take(self, most: int) -> bytes:
        """Remove and return up to `most` bytes."""
        taken = bytes(self._bytes[:most])
        del self._bytes[:most]
        return taken

    def put_back(self, data: bytes) -> None:
        self._bytes[:0] = data

    def clear(self) -> None:
        self._bytes.clear()
        self._seen = 0

    def take_head(self) -> bytes | None:
        """Remove and return a complete request head; None while it is incomplete. Raises
        BadRequest."""
        if self._seen == 0:  # clients may send an empty line after a request
            while self._bytes.startswith(b"\r\n"):
                del self._bytes[:2]
        end = self._bytes.find(_END, max(0, self._seen - len(_END)))
        size = len(self._bytes) if end < 0 else end + len(_END)
        if _AMBIGUOUS.search(self._bytes, max(0, self._seen - 1), size):
            raise BadRequest("a header line does not end in CR LF, is continued, or contains NUL")
        if size > MAX_HEAD_BYTES or self._bytes.count(b"\n", 0, size) > MAX_HEADERS + 2:
            text = f"the head has more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers"
            raise BadRequest(text, 431)
        if end < 0:
            self._seen = size
            return None
        self._seen = 0
        return self.take(size)
