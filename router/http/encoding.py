"""Decompression of request bodies."""

from __future__ import annotations

import zlib
from typing import Protocol

from router.errors import InvalidRequest, TooLarge, UnknownEncoding

GZIP, ZLIB, RAW = 31, 15, -15
"""Window sizes, in which zlib also encodes the format."""


class Decoder(Protocol):
    def feed(self, data: bytes, room: int) -> bytes:
        """The decompressed bytes. Raises TooLarge beyond `room` bytes, InvalidRequest for invalid
        data."""

    def end(self) -> None:
        """Finish. Raises InvalidRequest if the body is incomplete."""


def decoder(content_encoding: bytes) -> Decoder:
    """The decoder for a Content-Encoding header. Raises UnknownEncoding."""
    name = content_encoding.strip().lower()
    if name in (b"", b"identity"):
        return _Plain()
    if name in (b"gzip", b"x-gzip", b"deflate"):
        return _Compressed(gzip=name != b"deflate")
    shown = content_encoding.decode("latin-1")
    raise UnknownEncoding(
        f"content-encoding {shown!r} is not supported: send gzip, deflate or none"
    )


class _Plain:
    def feed(self, data: bytes, room: int) -> bytes:
        return data

    def end(self) -> None:
        pass


class _Compressed:
    """Decompresses incrementally, and never holds more than the permitted size."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._stream: zlib._Decompress | None = None

    def feed(self, data: bytes, room: int) -> bytes:
        result = bytearray()
        try:
            while data:
                if self._stream is None or self._stream.eof:
                    self._stream = self._next(data)
                result += self._stream.decompress(data, room + 1 - len(result))
                if len(result) > room:
                    raise TooLarge("the request's body is too large once it is decompressed")
                data = self._stream.unused_data or self._stream.unconsumed_tail
        except zlib.error as error:
            raise InvalidRequest(f"the request's body is invalid: {error}") from error
        return bytes(result)

    def end(self) -> None:
        if self._stream is not None and not self._stream.eof:
            raise InvalidRequest("the request's body ends within its compressed data")

    def _next(self, data: bytes) -> zlib._Decompress:
        """A new stream: gzip may have several members; deflate is zlib's format, or a raw
        stream."""
        if self._gzip:
            return zlib.decompressobj(GZIP)
        if self._stream is not None:
            raise InvalidRequest(
                "the request's body continues after the end of its compressed data"
            )
        is_zlib = data[0] & 0x0F == zlib.DEFLATED and data[0] >> 4 <= 7
        return zlib.decompressobj(ZLIB if is_zlib else RAW)
