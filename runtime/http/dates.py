"""The Date header."""

from __future__ import annotations

import time
from email.utils import formatdate


class HttpDate:
    """Formats the current time, once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def now(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True).encode()
        return self._text
