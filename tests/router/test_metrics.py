"""What a router counts of its requests, beyond their outcomes."""

from __future__ import annotations

import asyncio
import re
from collections import Counter

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.metrics import extended_to
from tests.router.conftest import Stage, StartStage
from tests.router.fake_worker import LAYOUT
from tests.router.test_generate import generate
from tests.router.test_invalid_requests import failure
from wire import inference_pb2 as pb

NUM_PROMPT = 30


def counts(stage: Stage, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Of one series, by these labels; zeros are left out."""
    found: Counter[tuple[str, ...]] = Counter()
    scrape = stage.server.conductor.metrics.expose().decode()
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sample.labels[label] for label in labels)] += sample.value
    return {key: value for key, value in found.items() if value}


async def test_cached_tokens_are_told_by_where_they_were(stage: Stage) -> None:
    await stage.add_pair([65, 66, 67])
    await generate(stage, text="a" * NUM_PROMPT)
    told = counts(stage, "tandem_cached_tokens_total", "side")
    # The fakes say that 4 tokens were cached at the first worker, and a block at the second.
    assert told == {("prefill",): 4, ("decode",): LAYOUT.block_size}


async def test_handoffs_are_added_up_by_their_ends(stage: Stage) -> None:
    await stage.add_pair([65, 66, 67])
    for _ in range(2):
        await generate(stage)
    ends = "prefill-0", "decode-0"
    told = {
        name: counts(stage, f"tandem_link_handoff{name}_total", "source", "destination")
        for name in ("s", "_bytes", "_seconds", "_exposed_seconds")
    }
    assert told["s"] == {ends: 2}
    assert told["_bytes"] == {ends: 2 * 3 * LAYOUT.block_bytes}
    assert told["_seconds"] == {ends: 0.6}
    assert told["_exposed_seconds"] == {ends: 0.1}
    assert counts(stage, "tandem_transfer_bytes_total") == {(): 2 * 3 * LAYOUT.block_bytes}


async def test_nobody_to_serve_and_a_router_that_drains_are_reasons_of_their_own(
    start_stage: StartStage,
) -> None:
    """Who has connected before is refused; after it nothing listens."""
    stage = await start_stage(drain_grace_s=0)
    await failure(stage.call(text="a"))
    host, _, port = stage.addresses.http.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await stage.server.drain(1)
    writer.write(
        b'POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 14\r\n\r\n{"prompt":"a"}'
    )
    assert (await reader.read()).startswith(b"HTTP/1.1 503")
    writer.close()
    assert counts(stage, "tandem_refusals_total", "reason") == {("no_worker",): 1, ("draining",): 1}
    assert counts(stage, "tandem_requests_total", "outcome") == {("unavailable",): 2}


async def test_a_message_that_grpc_does_not_read_is_no_request(start_stage: StartStage) -> None:
    stage = await start_stage(max_message_bytes=1000)
    error = await failure(stage.call(text="a" * 2000))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert counts(stage, "tandem_requests_total", "outcome") == {}
    await stage.stub.Tokenize(pb.TokenizeRequest(text="a"))
    assert counts(stage, "tandem_requests_total", "outcome") == {}


async def test_histograms_reach_to_the_longest_time_of_a_request(start_stage: StartStage) -> None:
    for longest_s in (2.0, 45.0, 600.0, 7000.0):
        stage = await start_stage(request_timeout_s=longest_s)
        text = stage.server.conductor.metrics.expose().decode()
        ends = re.findall(r'(tandem_\w+)_seconds_bucket{le="([0-9.]+)",model="tiny"}', text)
        last = {name: float(end) for name, end in ends}
        assert len(last) == 8
        assert all(end >= longest_s for end in last.values())


@pytest.mark.parametrize(
    ("longest_s", "expected"),
    [(2.0, (1, 2.5)), (2.5, (1, 2.5)), (45.0, (1, 2.5, 5, 10, 30, 45))],
)
def test_further_buckets_end_where_requests_do(
    longest_s: float, expected: tuple[float, ...]
) -> None:
    assert extended_to(longest_s, (1, 2.5)) == expected
