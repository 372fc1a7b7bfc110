"""W3C Trace Context: what is read of it, and where it is told."""

from __future__ import annotations

import logging

import pytest

from router.requests.trace import draw_attempt_name, draw_request_id, trace_id
from tests.router.conftest import Stage
from tests.router.test_generate import generate
from tests.router.test_invalid_requests import http_client
from wire.messages import Submit

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.mark.parametrize("given", [PARENT, f"01-{PARENT[3:]}", f"cc-{PARENT[3:]}-what.comes"])
def test_the_trace_is_read_of_this_version_and_of_those_to_come(given: str) -> None:
    assert trace_id(given) == TRACE


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{PARENT[3:]}",
        PARENT.upper(),
        f"{PARENT}-more",
        f"01-{PARENT[3:]}more",
        f"{PARENT},{PARENT}",
        PARENT[:-1],
    ],
)
def test_what_is_malformed_is_as_good_as_absent(given: str | None) -> None:
    assert trace_id(given) is None


def test_names_tell_the_trace_once_and_never_meet() -> None:
    drawn = draw_request_id(TRACE)
    assert drawn.startswith(TRACE)
    assert draw_attempt_name("mine", TRACE).startswith(f"mine~{TRACE}~")
    assert draw_attempt_name(drawn, TRACE).count(TRACE) == 1
    assert draw_attempt_name("mine", None).startswith("mine~")
    assert len({draw_attempt_name("mine", TRACE) for _ in range(20)}) == 20


async def test_workers_clients_and_logs_hear_of_the_trace(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Offers of one worker to another name the same attempt as the router's submission."""
    prefill, _ = await stage.add_pair([65])
    caplog.set_level(logging.DEBUG, "tandem.router")
    body = {"model": "tiny", "prompt": "a", "max_tokens": 2}
    async with http_client(stage) as http:
        for named in ({}, {"x-request-id": "mine"}):
            headers = {"traceparent": PARENT, **named}
            answer = await http.post("/v1/completions", json=body, headers=headers)
            assert answer.headers["x-request-id"].startswith(named.get("x-request-id", TRACE))
    metadata = (("traceparent", PARENT),)
    answers = [each async for each in stage.call(text="a", metadata=metadata)]
    assert answers[0].request_id.startswith(TRACE)
    for nth in (1, 2, 3):
        attempt_id = (await prefill.hears(Submit, nth)).attempt_id
        assert TRACE in attempt_id.request_id
        assert f"attempt {attempt_id} goes to prefill-0" in caplog.text


async def test_without_a_trace_nothing_is_said_of_one(stage: Stage) -> None:
    prefill, _ = await stage.add_pair([65])
    await generate(stage, request_id="mine")
    attempt_id = (await prefill.hears(Submit)).attempt_id
    assert attempt_id.request_id.startswith("mine~")
    assert attempt_id.request_id.count("~") == 1
