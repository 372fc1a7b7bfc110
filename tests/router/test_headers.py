"""What headers say of a request."""

from __future__ import annotations

import pytest

from router.http.headers import echoed_id, read_head, valid_traceparent
from router.openai.api import ChatBody
from router.openai.requests import chat_draft, parse_body

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_name_and_span_reach_the_draft() -> None:
    head = read_head([(b"x-request-id", b"mine"), (b"traceparent", TRACE.encode())])
    draft = chat_draft(parse_body(b'{"messages": []}', ChatBody), head)
    assert (draft.request_id, draft.traceparent) == ("mine", TRACE)
    named = chat_draft(parse_body(b'{"messages": [], "request_id": "own"}', ChatBody), head)
    assert named.request_id == "own"


def test_a_request_without_a_name_gets_one_of_its_own() -> None:
    names = {read_head([]).request_id for _ in range(20)}
    assert len(names) == 20
    assert read_head([(b"x-request-id", b"")]).request_id not in ("", *names)


@pytest.mark.parametrize("name", ["a\r\nset-cookie: b", "é", "a\x00"])
def test_a_name_that_no_header_can_hold_is_not_echoed(name: str) -> None:
    assert echoed_id(name) == []
    assert echoed_id("plain") == [(b"x-request-id", b"plain")]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (TRACE, TRACE),
        (None, None),
        ("", None),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", None),
        (TRACE.replace("00-4", "ff-4"), None),
        (TRACE.upper(), None),
        (TRACE + "-more", None),
    ],
)
def test_a_malformed_traceparent_is_as_good_as_none(given: str | None, kept: str | None) -> None:
    assert valid_traceparent(given) == kept
