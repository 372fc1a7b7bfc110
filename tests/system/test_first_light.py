"""The whole ride: real processes, real gRPC, real NIXL."""

from __future__ import annotations

import asyncio
import random
import re
import signal
from collections.abc import Iterator
from contextlib import suppress

import grpc
import httpx2
import pytest

from benchmarks.split_equals_alone import random_requests, serve
from cluster.running import RunningCluster
from engine.runners.arithmetic_runner import next_token
from tests.system.clusters import (
    ARITHMETIC,
    BUNDLED,
    DECODE_STAMP,
    PREFILL_STAMP,
    a_client,
    a_cluster,
    a_request,
    answer,
    reports_when_idle,
    wait_until_replaced,
)
from wire import inference_pb2 as pb

VOCAB = 2048


@pytest.fixture(scope="module")
def arithmetic() -> Iterator[RunningCluster]:
    with a_cluster(ARITHMETIC) as cluster:
        yield cluster


def expected(prompt: list[int], stamps: list[int]) -> list[int]:
    tokens = list(prompt)
    for stamp in stamps:
        tokens.append(next_token(tokens, stamp, VOCAB))
    return tokens[len(prompt) :]


async def test_prefill_makes_the_first_token_and_decode_the_others(
    arithmetic: RunningCluster,
) -> None:
    prompt = list(range(300))
    async with a_client(arithmetic) as stub:
        tokens, last = await answer(stub, a_request(prompt, 10))
    assert tokens == expected(prompt, [PREFILL_STAMP] + 9 * [DECODE_STAMP])
    assert (last.served_by.prefill_worker_id, last.served_by.decode_worker_id) == (
        "prefill-0",
        "decode-0",
    )
    assert last.timing.transfer.num_blocks == 19
    assert last.timing.transfer.num_bytes == 19 * 16 * 16


async def test_the_metrics_show_what_moved_and_over_which_link(
    arithmetic: RunningCluster,
) -> None:
    async with a_client(arithmetic) as stub:
        await answer(stub, a_request([9, 9, 9], 3))
    text = httpx2.get(f"http://{arithmetic.addresses.http}/metrics", timeout=60).text
    pattern = r'tandem_link_bytes_per_second\{destination="decode-0",source="prefill-0"\} (\S+)'
    found = re.search(pattern, text)
    assert found is not None
    assert float(found.group(1)) > 0
    assert "tandem_handoffs_kept_total 0.0" in text


async def test_a_repeated_prompt_is_cached_on_both_sides(arithmetic: RunningCluster) -> None:
    prompt = [3 * n % VOCAB for n in range(200)]
    async with a_client(arithmetic) as stub:
        first, _ = await answer(stub, a_request(prompt, 5))
        again, last = await answer(stub, a_request(prompt, 5))
    assert again == first
    assert last.usage.cached_tokens == 199
    assert last.timing.transfer.skipped_blocks == 12


async def test_the_next_turn_finds_what_was_decoded(arithmetic: RunningCluster) -> None:
    """The decode worker's blocks travel back to the prefill worker."""
    prompt = [5 * n % VOCAB for n in range(100)]
    async with a_client(arithmetic) as stub:
        answered, _ = await answer(stub, a_request(prompt, 500))
        conversation = [*prompt, *answered, 7, 7, 7]
        again, last = await answer(stub, a_request(conversation, 5))
    assert again == expected(conversation, [PREFILL_STAMP] + 4 * [DECODE_STAMP])
    assert last.usage.cached_tokens == 599 // 16 * 16


async def test_500_cancelled_requests_leave_every_pool_whole(arithmetic: RunningCluster) -> None:
    draw = random.Random(6)
    async with a_client(arithmetic) as stub:
        permits = asyncio.Semaphore(32)

        async def cancelled(number: int) -> None:
            prompt = [draw.randrange(VOCAB) for _ in range(draw.randrange(1, 1500))]
            async with permits:
                call = stub.Generate(a_request(prompt, 400))
                with suppress(TimeoutError, asyncio.CancelledError):
                    async with asyncio.timeout(draw.uniform(0, 0.15)):
                        async for _ in call:
                            pass
                call.cancel()

        await asyncio.gather(*map(cancelled, range(500)))
        reports = await reports_when_idle(arithmetic)
        assert [report.free_blocks for report in reports] == [
            report.num_blocks for report in reports
        ]
        prompt = [1, 2, 3]
        tokens, _ = await answer(stub, a_request(prompt, 3))
    assert tokens == expected(prompt, [PREFILL_STAMP, DECODE_STAMP, DECODE_STAMP])


async def test_text_chat_and_token_prompts_stream_from_the_same_cluster(
    arithmetic: RunningCluster,
) -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="def add(a, b):")])
    async with a_client(arithmetic) as stub:
        for prompt in ({"text": "import os"}, {"chat": chat}):
            request = pb.GenerateRequest(max_tokens=4, **prompt)
            tokens, last = await answer(stub, request)
            assert len(tokens) == 4
            assert last.finish_reason == pb.FINISH_REASON_LENGTH


@pytest.mark.parametrize("victim", ["decode", "prefill"])
async def test_a_killed_worker_costs_no_token_and_is_replaced(victim: str) -> None:
    same_stamp = {"prefill.worker.stamp": 0, "decode.worker.stamp": 0}
    with a_cluster({**ARITHMETIC, **same_stamp}) as cluster:
        prompt = list(range(100))
        async with a_client(cluster) as stub:
            tokens: list[int] = []
            alive = True
            async for message in stub.Generate(a_request(prompt, 600), timeout=60):
                tokens += message.token_ids
                if alive and len(tokens) > 5:
                    cluster.signal_worker(f"{victim}-0", signal.SIGKILL)
                    alive = False
            assert tokens == expected(prompt, 600 * [0])
            wait_until_replaced(cluster, f"{victim}-0")
            _, last = await answer(stub, a_request(prompt, 4))
        served_by = (last.served_by.prefill_worker_id, last.served_by.decode_worker_id)
        assert f"{victim}-0.2" in served_by


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("count", "longest"), [(24, 300), pytest.param(200, 2000, marks=pytest.mark.long)]
)
def test_two_workers_over_nixl_give_the_tokens_of_one_alone(count: int, longest: int) -> None:
    requests = random_requests(count, longest)
    together = serve(BUNDLED, requests, at_a_time=16)
    alone = serve({**BUNDLED, "prefill.replicas": 0}, requests, at_a_time=16)
    assert {answer.served_by for answer in together} == {("prefill-0", "decode-0")}
    assert all(answer.moved_bytes > 0 for answer in together)
    assert {answer.served_by for answer in alone} == {("decode-0", "decode-0")}
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]


async def test_with_no_worker_left_the_client_hears_why() -> None:
    with a_cluster({**ARITHMETIC, "decode.replicas": 0}) as cluster:
        cluster.signal_worker("prefill-0", signal.SIGKILL)
        async with a_client(cluster) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await answer(stub, a_request([1, 2, 3], 4))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
