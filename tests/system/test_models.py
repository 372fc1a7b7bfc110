"""Two models in one cluster: one has a pool for each phase, the other one pool for both."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.bundled import BUNDLED_MODEL
from cluster.config import load_config
from cluster.process_launcher import ProcessLauncher
from cluster.running import RunningCluster, running
from tests.system.clusters import LOOPBACK, a_client, a_request, answer
from tests.system.shells import BIN, ROOT, Shell
from tests.system.test_first_light import expected
from wire import inference_pb2_grpc as rpc

PROMPT = list(range(100))
STAMPS = {"chat": [1] + 3 * [2], "small": 4 * [3]}
"""Who makes each of four tokens: its prefill worker and its decode worker, or one for all."""
HERE = {
    "models.chat": str(BUNDLED_MODEL),
    "models.small.path": str(BUNDLED_MODEL),
    "worker": {"runner": "arithmetic", "ucx_env": LOOPBACK, "cache_bytes": 4 * 1024 * 1024},
    "router": {"split": "always"},
    "pools.chat-prefill.replicas": 1,
    **{f"pools.{pool}.num_gpus": 0 for pool in ("chat-prefill", "chat-decode", "small")},
    "pools.chat-prefill.worker.stamp": 1,
    "pools.chat-decode.worker.stamp": 2,
    "pools.small.worker.stamp": 3,
}
"""On this machine, in place of GPUs and large models."""


@pytest.fixture
def config(tmp_path: Path) -> str:
    """The file that the README shows."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (shown,) = [block for block in blocks if "pools:" in block]
    path = tmp_path / "cluster.yaml"
    path.write_text(shown)
    return str(path)


async def ask_grpc(address: str, model: str) -> list[int]:
    async with grpc.aio.insecure_channel(address) as channel:
        return (await answer(rpc.InferenceStub(channel), a_request(PROMPT, 4, model=model)))[0]


def ask_http(address: str, model: str) -> httpx2.Response:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 4, "ignore_eos": True}
    url = f"http://{address}/v1/completions"
    return httpx2.post(url, json={**body, "return_token_ids": True}, timeout=60)


def assert_served(addresses: tuple[str, str], model: str) -> None:
    """Through both doors, by the workers of this model."""
    tokens = expected(PROMPT, STAMPS[model])
    assert asyncio.run(ask_grpc(addresses[0], model)) == tokens
    assert ask_http(addresses[1], model).json()["choices"][0]["token_ids"] == tokens


def assert_not_found(addresses: tuple[str, str]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        asyncio.run(ask_grpc(addresses[0], "third"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    response = ask_http(addresses[1], "third")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "where",
    [
        pytest.param(["--without-ray"], id="processes"),
        pytest.param([], id="ray", marks=pytest.mark.long),
    ],
)
@pytest.mark.ray
def test_up_serves_both_and_whoever_dies_takes_its_own_model_alone(
    config: str, where: list[str]
) -> None:
    settings = [
        word for key, value in HERE.items() for word in ("--set", f"{key}={json.dumps(value)}")
    ]
    up = Shell([str(BIN / "tandem"), "up", "-c", config, *settings, *where], {})
    try:
        found = up.line_with(r"router-0\s+ready\s+grpc (\S+)\s+http (\S+)")
        addresses = (found.group(1), found.group(2))
        process_id = int(up.line_with(r"small-0\s+ready .* process (\d+)").group(1))
        up.line_with("Ctrl-C stops")
        for model in STAMPS:
            assert_served(addresses, model)
        assert_not_found(addresses)
        os.kill(process_id, signal.SIGKILL)
        assert_served(addresses, "chat")
        up.line_with(r"small-0\s+died")
        assert_served(addresses, "chat")
        up.line_with(r"small-0\s+ready .* process")
        assert_served(addresses, "small")
    finally:
        status = up.end(signal.SIGTERM)
    assert status == 0


@pytest.fixture
def cluster(config: str) -> Iterator[RunningCluster]:
    settings = load_config(config, {**HERE, "pools.small.worker.max_model_len": 1000})
    with running(settings, ProcessLauncher(), lambda line: None) as cluster:
        yield cluster


async def test_a_model_without_workers_is_unavailable_and_the_metrics_tell_the_two_apart(
    cluster: RunningCluster,
) -> None:
    http = f"http://{cluster.addresses.http}"
    async with a_client(cluster) as stub:
        for model, count in (("chat", 3), ("small", 2)):
            for _ in range(count):
                tokens, last = await answer(stub, a_request(PROMPT, 4, model=model))
                assert tokens == expected(PROMPT, STAMPS[model])
                pools = (last.served_by.prefill_worker_id, last.served_by.decode_worker_id)
                split = ("chat-prefill-0", "chat-decode-0")
                assert pools == (split if model == "chat" else ("small-0", "small-0"))
        listed = httpx2.get(f"{http}/v1/models", timeout=60).json()["data"]
        assert {it["id"]: it["max_model_len"] for it in listed}["small"] == 1000
        cluster.signal_worker("small-0", signal.SIGKILL)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await answer(stub, a_request(PROMPT, 4, model="small"))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        tokens, _ = await answer(stub, a_request(PROMPT, 4, model="chat"))
    assert tokens == expected(PROMPT, STAMPS["chat"])
    assert httpx2.get(f"{http}/health", timeout=60).status_code == 200
    samples = samples_of(httpx2.get(f"{http}/metrics", timeout=60).text)
    assert samples["tandem_generated_tokens_total", "chat"] == 4 * 4
    assert samples["tandem_generated_tokens_total", "small"] == 2 * 4
    assert samples["tandem_time_to_first_token_seconds_count", "small"] == 2
    assert samples["tandem_workers", "chat", "prefill", "ready"] == 1
    assert samples["tandem_workers", "small", "decode", "ready"] == 0


def samples_of(text: str) -> dict[tuple[str, ...], float]:
    """By name and labels in alphabetical order."""
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
