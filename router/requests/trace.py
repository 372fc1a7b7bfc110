"""The trace that a request belongs to: read from W3C Trace Context, and part of its names.

A request that its client did not name is named after its trace, and so is every attempt at
serving it: what routers and workers say of it, to clients, to each other and in logs, holds the
trace id.
"""

from __future__ import annotations

import re
import secrets

_TRACEPARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}"
    r"-[0-9a-f]{2}(?P<more>-.*)?"
)


def trace_id(traceparent: str | None) -> str | None:
    """The trace id, 32 hexadecimal digits; None for a malformed header, which counts as absent.

    Versions after 00 may have further fields.
    """
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None or (found["version"] == "00" and found["more"] is not None):
        return None
    return found["trace"]


def draw_request_id(trace: str | None = None) -> str:
    """A request id that is unique among all routers: a trace may have many requests."""
    return secrets.token_hex(12) if trace is None else f"{trace}-{secrets.token_hex(4)}"


def draw_attempt_name(request_id: str, trace: str | None) -> str:
    """The request_id of the attempts: clients may repeat theirs, and attempts of different requests
    must never be confused."""
    traced = "" if trace is None or trace in request_id else f"{trace}~"
    return f"{request_id}~{traced}{secrets.token_hex(4)}"
