"""What headers say of a request."""

from __future__ import annotations

import pytest

from router.openai.body_parsing import chat_draft, parse_body
from router.openai.headers import echoed_id, read_head
from router.openai.request_bodies import ChatBody

pytestmark = pytest.mark.quick

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01".encode()


def test_name_and_trace_reach_the_draft() -> None:
    head = read_head([(b"x-request-id", b"mine"), (b"traceparent", PARENT)])
    draft = chat_draft(parse_body(b'{"messages": []}', ChatBody), head)
    assert (draft.request_id, draft.trace_id) == ("mine", TRACE)
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


def test_a_request_without_a_name_is_named_after_its_trace() -> None:
    names = {read_head([(b"traceparent", PARENT)]).request_id for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith(TRACE) for name in names)
    assert not read_head([(b"traceparent", PARENT[:-1])]).request_id.startswith(TRACE)
