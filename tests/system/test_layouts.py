"""Pools of workers whose KV layouts differ: real processes, real gRPC, real NIXL."""

from __future__ import annotations

from typing import Any

import httpx2
import msgspec

from benchmarks.split_equals_alone import random_requests, serve
from cluster.bundled import BUNDLED_MODEL
from tests.system.clusters import BUNDLED, a_client, a_cluster, a_request, answer
from tests.worker.models import NUM_OUTPUT, PROMPT, Model, one_thread
from wire import inference_pb2 as pb


def pools(prefill: dict[str, Any], decode: dict[str, Any]) -> dict[str, Any]:
    """Settings of a cluster, of which each pool has some of its own."""
    own = {f"prefill.worker.{key}": value for key, value in prefill.items()}
    return {**BUNDLED, **own, **{f"decode.worker.{key}": value for key, value in decode.items()}}


def test_blocks_of_two_sizes_give_the_tokens_of_one_worker_alone() -> None:
    requests = random_requests(24, 400)
    settings = pools({"block_size": 16}, {"block_size": 64})
    together = serve(settings, requests, at_a_time=8)
    alone = serve({**BUNDLED, "prefill.replicas": 0}, requests, at_a_time=8)
    assert {answer.served_by for answer in together} == {("prefill-0", "decode-0")}
    assert all(answer.moved_bytes > 0 for answer in together)
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]


async def test_two_dtypes_give_the_tokens_of_a_cache_that_was_merely_cast() -> None:
    model = Model(BUNDLED_MODEL)
    wide, narrow = {"dtype": "float32", "block_size": 64}, {"dtype": "bfloat16", "block_size": 16}
    greedy = pb.Sampling(temperature=0.0)
    with a_cluster(pools(wide, narrow)) as cluster:
        async with a_client(cluster) as stub:
            tokens, last = await answer(stub, a_request([*PROMPT], NUM_OUTPUT, sampling=greedy))
        metrics = httpx2.get(f"http://{cluster.addresses.http}/metrics", timeout=60).text
    with one_thread():
        assert tokens == model.converted("float32", "bfloat16", 16)
    remote = msgspec.structs.replace(model.layout, **narrow)
    assert last.timing.transfer.num_blocks == remote.num_blocks(len(PROMPT))
    assert last.timing.transfer.num_bytes == remote.num_blocks(len(PROMPT)) * remote.block_bytes
    assert "tandem_handoffs_kept_total 0.0" in metrics
