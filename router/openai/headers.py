"""HTTP request headers that the router reads, and response headers."""

from __future__ import annotations

import math

import msgspec

from router.errors import RouterError, Unauthenticated, UnknownEncoding
from router.intake.draft_checks import SPLIT_HEADER
from router.requests.trace import draw_request_id, trace_id


class RequestHead(msgspec.Struct, frozen=True, kw_only=True):
    request_id: str
    """The client's id for its request, or a generated one."""
    trace_id: str | None = None
    split: str | None = None


def read_head(headers: list[tuple[bytes, bytes]]) -> RequestHead:
    given = {name: value.decode("latin-1") for name, value in headers}
    trace = trace_id(given.get(b"traceparent"))
    name = given.get(b"x-request-id") or draw_request_id(trace)
    split = given.get(SPLIT_HEADER.encode())
    return RequestHead(request_id=name, trace_id=trace, split=split)


def echoed_id(request_id: str) -> list[tuple[bytes, bytes]]:
    """The X-Request-Id response header; none for ids that a header cannot contain."""
    if not (request_id.isascii() and request_id.isprintable()):
        return []
    return [(b"x-request-id", request_id.encode())]


def error_headers(error: RouterError) -> list[tuple[bytes, bytes]]:
    """Response headers that belong to an error."""
    headers = []
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, UnknownEncoding):
        headers.append((b"accept-encoding", b"gzip, deflate"))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    return headers
