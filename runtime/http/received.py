"""What a connection has received and no request has taken yet."""

from __future__ import annotations

import re

from runtime.http.errors import BadRequest

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 256
_END = b"\r\n\r\n"
# Servers read these differently, which is how a request is hidden in another one: CR or LF alone,
# NUL, and headers continued on the next line.
_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|\n[ \t]|\0")


class Received:
    """Bytes in order. `take_head` waits for a whole head: the line of a request and its headers."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._seen = 0
        """How many bytes are known to hold nothing ambiguous, and no end."""

    def __len__(self) -> int:
        return len(self._bytes)

    def add(self, data: bytes) -> None:
        self._bytes += data

    def take(self, most: int) -> bytes:
        """Not more than so many of them."""
        taken = bytes(self._bytes[:most])
        del self._bytes[:most]
        return taken

    def put_back(self, data: bytes) -> None:
        self._bytes[:0] = data

    def clear(self) -> None:
        self._bytes.clear()
        self._seen = 0

    def take_head(self) -> bytes | None:
        """None while it is incomplete. Raises BadRequest."""
        if self._seen == 0:  # clients may end a request with an empty line too many
            while self._bytes.startswith(b"\r\n"):
                del self._bytes[:2]
        end = self._bytes.find(_END, max(0, self._seen - len(_END)))
        size = len(self._bytes) if end < 0 else end + len(_END)
        if _AMBIGUOUS.search(self._bytes, max(0, self._seen - 1), size):
            raise BadRequest("a line of the head does not end in CR LF, is continued, or has a NUL")
        if size > MAX_HEAD_BYTES or self._bytes.count(b"\n", 0, size) > MAX_HEADERS + 2:
            text = f"the head has more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers"
            raise BadRequest(text, 431)
        if end < 0:
            self._seen = size
            return None
        self._seen = 0
        return self.take(size)
