"""One worker alone and a split pair answer alike, by either door, over the whole API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from cluster.running import RunningCluster
from tests.system.api_cases import (
    CASES,
    CHAT,
    COMPLETION,
    MESSAGES,
    PROMPT,
    REFUSED,
    REFUSED_BY_HTTP,
    SCHEMA,
    TOOLS,
    Case,
)
from tests.system.api_doors import Choice, Heard, hear_grpc, hear_http
from tests.system.clusters import BUNDLED, a_cluster

Clusters = tuple[RunningCluster, RunningCluster]


@pytest.fixture(scope="module")
def clusters() -> Iterator[Clusters]:
    settings = {**BUNDLED, "router.trust_request_templates": True, "worker.deterministic": True}
    with (
        a_cluster({**settings, "router.split": "always"}) as split,
        a_cluster({**settings, "prefill.replicas": 0}) as alone,
    ):
        yield split, alone


@pytest.mark.parametrize("case", CASES)
def test_answers_are_equal(clusters: Clusters, case: Case) -> None:
    """Split and alone, whole and streamed, over HTTP and over gRPC."""
    split, alone = (hear_http(cluster, case, stream=False) for cluster in clusters)
    assert split == alone
    assert split.status == 200, split.error
    assert all(choice.tokens for choice in split.choices.values())
    streams = [hear_http(cluster, case, stream=True) for cluster in clusters]
    assert streams[0] == streams[1]
    calls = [hear_grpc(cluster, case) for cluster in clusters]
    assert calls[0] == calls[1]
    for heard in (streams[0], calls[0]):
        assert heard.choices == split.choices
        assert heard.usage == split.usage


@pytest.mark.parametrize("case", CASES)
def test_the_first_message_of_an_answer_begins_it(clusters: Clusters, case: Case) -> None:
    stream, call = hear_http(clusters[0], case, stream=True), hear_grpc(clusters[0], case)
    opening = {"role": "assistant", "content": ""} if case[0] == CHAT else None
    assert stream.begins == [(index, opening) for index in range(len(stream.choices))]
    prompts = [(index, call.choices[index].prompt_tokens) for index in range(len(call.choices))]
    assert call.begins == prompts
    assert all(prompt for _, prompt in prompts)


@pytest.mark.parametrize("case", REFUSED + REFUSED_BY_HTTP)
def test_refusals_are_equal(clusters: Clusters, case: Case) -> None:
    split, alone = (hear_http(cluster, case, stream=False) for cluster in clusters)
    assert split == alone
    assert split.status == 400
    assert split.field
    if case in REFUSED:
        assert [hear_grpc(cluster, case).status for cluster in clusters] == [400, 400]
        assert hear_grpc(clusters[0], case).field


def test_the_split_pair_did_split(clusters: Clusters) -> None:
    split, alone = (moved_bytes(cluster) for cluster in clusters)
    assert split > 0
    assert alone == 0


def test_what_was_asked_for_is_what_comes(clusters: Clusters) -> None:
    """Equal answers could be equally wrong."""
    schema = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    asked = {"messages": MESSAGES, "response_format": schema, "max_tokens": 120, "seed": 5}
    assert set(json.loads(only(clusters, CHAT, asked).text)) == {"name", "old"}
    one = {"tool_choice": "required", "parallel_tool_calls": False, "seed": 3}
    called = only(clusters, CHAT, {"messages": MESSAGES, **one, **TOOLS})
    assert called.finish == "tool_calls"
    assert set(json.loads(called.calls[0]["arguments"])) == {"a", "b"}
    allowed = {"prompt": PROMPT, "allowed_token_ids": [40, 41], "seed": 1}
    assert set(only(clusters, COMPLETION, allowed).tokens) <= {40, 41}
    stopped = {"prompt": PROMPT, "seed": 6, "stop": ["\n", "return"], "max_tokens": 60}
    assert only(clusters, COMPLETION, stopped).stop in ("\n", "return")
    likely = only(clusters, COMPLETION, {"prompt": PROMPT, "seed": 3, "logprobs": 5})
    assert [len(tops) for _, _, tops in likely.logprobs] == [5] * len(likely.tokens)


def only(clusters: Clusters, path: str, body: dict[str, Any]) -> Choice:
    heard: Heard = hear_http(clusters[1], (path, body), stream=False)
    (choice,) = heard.choices.values()
    return choice


def moved_bytes(cluster: RunningCluster) -> float:
    """KV cache that has travelled; at least one prompt of this call's own."""
    asked = {"prompt": "y = 2\n" * 40, "max_tokens": 4, "temperature": 0}
    assert hear_http(cluster, (COMPLETION, asked), stream=False).status == 200
    metrics = httpx2.get(f"http://{cluster.addresses.http}/metrics", timeout=60).text
    name = "tandem_transfer_bytes_total"
    counted = [line for line in metrics.splitlines() if line.startswith(name)]
    assert counted
    return sum(float(line.rpartition(" ")[2]) for line in counted)
