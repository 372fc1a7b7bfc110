"""A prefill worker becomes a decode worker and back while streams run: real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.split_equals_alone import random_requests
from cluster.running import RunningCluster
from tests.system.clusters import BUNDLED, a_client, a_cluster, reports_when_idle
from tests.system.role_streams import Answer, Operator, Streams, an_operator, salted
from wire import inference_pb2 as pb
from wire.identity import Role

FLIPPED = "prefill-1"
LONGEST_PROMPT = 400
ANSWER = 40
SETTINGS = {
    **BUNDLED,
    "prefill.replicas": 2,
    "decode.replicas": 1,
    "worker.deterministic": True,
    "worker.cache_bytes": 512 << 20,
    "router.admin_port": 0,
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with a_cluster(SETTINGS) as cluster:
        yield cluster


async def flip(operator: Operator, streams: Streams, count: int, num_tokens: int) -> None:
    """Change the worker's role and back so often, evenly over that many tokens. A role is kept for
    a while however long the change has taken, so that requests come to the worker in each."""
    share = num_tokens // (2 * count + 2)
    for number in range(2 * count):
        due = max((number + 1) * share, streams.num_tokens + share // 2)
        await streams.until(min(due, num_tokens))
        await operator.change(FLIPPED, Role.PREFILL if number % 2 else Role.DECODE)


async def disturbed(
    operator: Operator, streams: Streams, at_a_time: int, num_flips: int, num_tokens: int
) -> list[Answer]:
    """The answers of streams during which the worker changes its role and back."""
    async with asyncio.TaskGroup() as group:
        answers = group.create_task(streams.run(at_a_time))
        group.create_task(flip(operator, streams, num_flips, num_tokens))
    return answers.result()


def the_cached_of(answers: list[Answer], requests: list[pb.GenerateRequest]) -> list[int]:
    """Numbers of those whose prompts are in the cache of the worker that flips."""
    return [
        number
        for number, answer in enumerate(answers)
        if answer.prefilled_by == FLIPPED and len(requests[number].token_ids.ids) >= 32
    ]


@pytest.mark.parametrize(
    ("at_a_time", "num_requests", "num_flips"),
    [
        pytest.param(16, 120, 4),
        pytest.param(200, 320, 10, marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
)
async def test_a_worker_that_changes_its_role_breaks_no_stream_and_keeps_its_cache(
    cluster: RunningCluster, at_a_time: int, num_requests: int, num_flips: int
) -> None:
    requests = random_requests(num_requests, LONGEST_PROMPT, max_tokens=ANSWER)
    early = [salted(each, f"early {at_a_time}") for each in requests[:24]]
    calm = [salted(each, f"calm {at_a_time}") for each in requests]
    busy = [salted(each, f"busy {at_a_time}") for each in requests]
    async with a_client(cluster) as stub, an_operator(cluster) as operator:
        before = await Streams(stub, early).run(1)
        undisturbed = await Streams(stub, calm).run(at_a_time)
        streams = Streams(stub, busy)
        answers = await disturbed(operator, streams, at_a_time, num_flips, num_requests * ANSWER)
        after = await Streams(stub, early).run(1)
        reports = await reports_when_idle(cluster)
    assert [it.tokens for it in answers] == [it.tokens for it in undisturbed]
    assert {it.num_attempts for it in answers} == {1}, "no request had to begin again"
    served = {(it.prefilled_by, it.decoded_by) for it in answers}
    assert {FLIPPED} < {first for first, _ in served}, "it prefills between its changes"
    assert {FLIPPED} < {last for _, last in served}, "and decodes"
    assert [it.free_blocks for it in reports] == [it.num_blocks for it in reports]
    cached = the_cached_of(before, early)
    assert cached
    for number in cached:
        num_prompt = len(early[number].token_ids.ids)
        whole_blocks = (num_prompt - 1) // 16 * 16
        assert after[number].num_cached >= whole_blocks, "what was cached there is a hit"
        assert after[number].tokens == before[number].tokens
