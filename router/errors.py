"""The router's error tree, and how the gRPC and HTTP APIs report each error.

RouterError
├── InvalidRequest      an invalid request; names the field
│   ├── ModelNotFound   the model is not served here
│   ├── TooLarge        the request is too large
│   ├── UnknownEncoding the body's encoding is not supported
│   ├── NoSuchRoute     an HTTP path or method that does not exist
│   └── TooSlow         the client took too long to send its request
├── Unauthenticated     no API key, or an unknown one
├── Forbidden           the API key does not allow it
├── Overloaded          too many requests; retry after `retry_after_s`
├── OverQuota           a limit of the API key is reached; retry after `retry_after_s`
├── Unavailable         no worker can serve the request now, or all attempts failed
├── NotRead             the client does not read its answer
├── DeadlineExceeded    the request's deadline has passed; names stage and worker
├── Internal            an internal error, of the router or a worker
└── StartError          the router cannot start; names the file
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc


class RouterError(Exception):
    """Base of all errors that end a request or a router."""

    retry_after_s: float | None = None
    field: str | None = None
    reason: str | None = None
    """One of REASONS, if the outcome has several."""


class InvalidRequest(RouterError):
    """The request is invalid. `field` is the field's name in the request, or None."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ModelNotFound(InvalidRequest):
    """The model is not served here; names it and the served ones."""


class TooLarge(InvalidRequest):
    """The request is too large; names the limit in bytes."""


class UnknownEncoding(InvalidRequest):
    """The body's content encoding is not supported; names it and the supported ones."""


class NoSuchRoute(InvalidRequest):
    """The HTTP path or method does not exist; `status` is 404 or 405."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class TooSlow(InvalidRequest):
    """The request's body did not arrive in time; names the timeout."""


class Unauthenticated(RouterError):
    """No valid API key; says how to send one, but not what is wrong with the one sent."""


class Forbidden(RouterError):
    """The key does not allow this; names what it allows."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class OverQuota(RouterError):
    """The key's limit is reached; names the limit. Other keys are served."""

    def __init__(self, message: str, retry_after_s: float, *, reason: str) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason


class Overloaded(RouterError):
    """The router has as many requests as it may."""

    def __init__(
        self, message: str, retry_after_s: float = 1.0, *, reason: str = "router_full"
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason


class Unavailable(RouterError):
    """No worker can serve the request now; a later attempt, or another router, may."""

    def __init__(
        self, message: str, retry_after_s: float = 1.0, *, reason: str = "no_worker"
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason


class NotRead(RouterError):
    """The client does not read its answer; says how many bytes wait."""


class DeadlineExceeded(RouterError):
    """The request's deadline has passed; names the current stage and worker."""


class Internal(RouterError):
    """An internal error, of the router or a worker; says what failed."""


class StartError(RouterError):
    """The router cannot start; names the file and the remedy."""


class ClientGone(Exception):
    """The client disconnected before the answer was complete; not an error."""


@dataclass(frozen=True)
class ErrorMapping:
    """The representation of an error class in both APIs and in metrics."""

    outcome: str
    grpc_status: grpc.StatusCode
    http_status: int
    openai_type: str
    openai_code: str | None


ERROR_MAPPINGS: dict[type[RouterError], ErrorMapping] = {
    ModelNotFound: ErrorMapping(
        "not_found", grpc.StatusCode.NOT_FOUND, 404, "invalid_request_error", "model_not_found"
    ),
    TooLarge: ErrorMapping(
        "invalid",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        413,
        "invalid_request_error",
        "request_too_large",
    ),
    UnknownEncoding: ErrorMapping(
        "invalid",
        grpc.StatusCode.INVALID_ARGUMENT,
        415,
        "invalid_request_error",
        "unsupported_content_encoding",
    ),
    NoSuchRoute: ErrorMapping(
        "not_found", grpc.StatusCode.UNIMPLEMENTED, 404, "invalid_request_error", "unknown_url"
    ),
    InvalidRequest: ErrorMapping(
        "invalid", grpc.StatusCode.INVALID_ARGUMENT, 400, "invalid_request_error", None
    ),
    TooSlow: ErrorMapping(
        "invalid",
        grpc.StatusCode.DEADLINE_EXCEEDED,
        408,
        "invalid_request_error",
        "request_timeout",
    ),
    Unauthenticated: ErrorMapping(
        "unauthenticated",
        grpc.StatusCode.UNAUTHENTICATED,
        401,
        "invalid_request_error",
        "invalid_api_key",
    ),
    Forbidden: ErrorMapping(
        "forbidden",
        grpc.StatusCode.PERMISSION_DENIED,
        403,
        "permission_error",
        "permission_denied",
    ),
    OverQuota: ErrorMapping(
        "over_quota",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
    ),
    Overloaded: ErrorMapping(
        "overloaded",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        429,
        "rate_limit_error",
        "too_many_requests",
    ),
    Unavailable: ErrorMapping(
        "unavailable", grpc.StatusCode.UNAVAILABLE, 503, "server_error", "unavailable"
    ),
    NotRead: ErrorMapping(
        "not_read", grpc.StatusCode.RESOURCE_EXHAUSTED, 408, "invalid_request_error", "not_read"
    ),
    DeadlineExceeded: ErrorMapping(
        "deadline", grpc.StatusCode.DEADLINE_EXCEEDED, 504, "server_error", "deadline_exceeded"
    ),
    Internal: ErrorMapping("internal", grpc.StatusCode.INTERNAL, 500, "server_error", "internal"),
}


REASONS = (
    *("router_full", "queue_full", "too_late", "grammars_busy"),  # Overloaded
    *("quota_requests", "quota_tokens", "quota_concurrency"),  # OverQuota
    *("no_worker", "draining", "stopped", "workers_failed"),  # Unavailable
)
"""Reasons for not serving a request, for outcomes that have several."""


def reason_of(error: RouterError) -> str:
    """The error's reason, or else its outcome."""
    return error.reason or mapping_of(error).outcome


def mapping_of(error: RouterError) -> ErrorMapping:
    """The mapping of the error's class."""
    return ERROR_MAPPINGS.get(type(error), ERROR_MAPPINGS[Internal])


@contextmanager
def nesting_is_invalid_request() -> Iterator[None]:
    """Turn RecursionError into InvalidRequest: too deeply nested JSON is the client's error,
    whichever parser, template or encoder fails on it."""
    try:
        yield
    except RecursionError as error:
        raise InvalidRequest("the request's JSON is nested too deeply") from error
