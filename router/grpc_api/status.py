"""How gRPC tells an error: a status, and google.rpc details for clients that act on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details_pb
from google.rpc.status_pb2 import Status

from router.errors import RouterError, mapping_of

DOMAIN = "tandem"
DETAILS_KEY = "grpc-status-details-bin"
Metadata = tuple[tuple[str, str | bytes], ...]
MAX_TEXT_BYTES = 1000
"""Maximum length of an error's text, which occurs three times in trailers: clients accept 8 KiB of
them, and report another error beyond."""


async def abort(context: grpc.aio.ServicerContext, error: RouterError) -> NoReturn:
    """Ends a call with this error."""
    await context.abort(mapping_of(error).grpc_status, _text(error), trailing_metadata(error))
    raise error  # abort has raised already


def trailing_metadata(error: RouterError) -> Metadata:
    """The details, and the same in plain words for clients that know no google.rpc."""
    status = Status(code=mapping_of(error).grpc_status.value[0], message=_text(error))
    for message in _details(error):
        packed = AnyMessage()
        packed.Pack(message)
        status.details.append(packed)
    return ((DETAILS_KEY, status.SerializeToString()), *_plain(error))


def _details(error: RouterError) -> Iterator[Message]:
    """ErrorInfo always; what is to blame, and when to come back, where that is known."""
    face = mapping_of(error)
    reason = (face.openai_code or face.outcome).upper()
    yield details_pb.ErrorInfo(reason=reason, domain=DOMAIN)
    if error.field is not None:
        violation = details_pb.BadRequest.FieldViolation(
            field=error.field, description=_text(error)
        )
        yield details_pb.BadRequest(field_violations=[violation])
    if error.retry_after_s is not None:
        retry = details_pb.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        yield retry


def _plain(error: RouterError) -> Iterator[tuple[str, str]]:
    if error.field is not None:
        yield "tandem-field", error.field
    if error.retry_after_s is not None:
        yield "retry-after-s", f"{error.retry_after_s:g}"


def _text(error: RouterError) -> str:
    """The error's text, shortened: it may quote what the client sent, of any length."""
    text = str(error).encode()
    if len(text) <= MAX_TEXT_BYTES:
        return str(error)
    return text[:MAX_TEXT_BYTES].decode(errors="ignore") + "…"
