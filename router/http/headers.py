"""What a request's headers say beside its body."""

from __future__ import annotations

import re

import msgspec

from router.requests import draw_request_id

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


class RequestHead(msgspec.Struct, frozen=True, kw_only=True):
    request_id: str
    """The client's own name for its request, or one that was drawn."""
    traceparent: str | None = None


def read_head(headers: list[tuple[bytes, bytes]]) -> RequestHead:
    given = {name: value.decode("latin-1") for name, value in headers}
    return RequestHead(
        request_id=given.get(b"x-request-id") or draw_request_id(),
        traceparent=valid_traceparent(given.get(b"traceparent")),
    )


def valid_traceparent(value: str | None) -> str | None:
    """As W3C Trace Context has it: what is malformed is as good as absent."""
    return value if value is not None and _TRACEPARENT.fullmatch(value) else None


def echoed_id(request_id: str) -> list[tuple[bytes, bytes]]:
    """The header that says which request was answered; none for names that no header can hold."""
    if not (request_id.isascii() and request_id.isprintable()):
        return []
    return [(b"x-request-id", request_id.encode())]
