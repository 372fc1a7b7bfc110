"""One worker alone and a split pair answer alike, over the whole API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from cluster.running import RunningCluster
from tests.system.clusters import BUNDLED, a_cluster

PROMPT = "def fibonacci(n):\n    if n < 2:\n        return n\n" * 4
MESSAGES = [
    {"role": "system", "content": "You write Python."},
    {"role": "user", "content": [{"type": "text", "text": "def add(a, b):"}]},
]
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|{{ m.role }}|>"
    "{{ m.content }}{% endfor %}<|assistant|>"
)
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"enum": [1, 2, 3]}, "b": {"type": "boolean"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ada", "bob"]}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}
TOOLS = {"tools": [TOOL], "chat_template": TEMPLATE, "max_tokens": 80}
COMPLETIONS: list[dict[str, Any]] = [
    {"prompt": PROMPT, "temperature": 0},
    {"prompt": PROMPT, "seed": 3, "logprobs": 5, "return_token_ids": True},
    {"prompt": [PROMPT, "import os\n"], "seed": 4, "n": 2, "echo": True},
    {"prompt": [[5, 6, 7], [8, 9]], "seed": 5},
    {"prompt": PROMPT, "seed": 6, "stop": ["\n", "return"], "max_tokens": 60},
    {"prompt": PROMPT, "seed": 7, "stop": "(", "include_stop_str_in_output": True},
    {"prompt": PROMPT, "seed": 8, "top_k": 4, "top_p": 0.9, "min_p": 0.05, "n": 3},
    {"prompt": PROMPT, "seed": 9, "presence_penalty": 1, "frequency_penalty": 0.5, "n": 2},
    {"prompt": PROMPT, "seed": 10, "repetition_penalty": 1.3, "min_tokens": 12},
    {"prompt": PROMPT, "seed": 11, "logit_bias": {"40": 5, "41": -100}, "logprobs": 0},
    {"prompt": PROMPT, "seed": 12, "allowed_token_ids": [40, 41, 42, 43], "ignore_eos": True},
    {"prompt": PROMPT, "temperature": 0, "bad_words": ["return", "if"]},
    {"prompt": PROMPT, "seed": 13, "truncate_prompt_tokens": 7, "add_special_tokens": False},
    {"prompt": PROMPT, "seed": 14, "max_tokens": 1, "n": 3},
    {"prompt": PROMPT, "seed": 15, "ignore_eos": True, "skip_special_tokens": False},
    {"prompt": PROMPT, "seed": 16, "stream_interval": 7, "ignore_eos": True},
    {"prompt": PROMPT, "seed": 17, "regex": "[a-f]{5} [0-9]{3}", "n": 2},
    {"prompt": PROMPT * 8, "temperature": 0, "cache_salt": "mine", "priority": -1},
    {"prompt": "x = ", "seed": 18, "stop_token_ids": list(range(20, 60)), "ignore_eos": True},
    {"prompt": "x = ", "seed": 19, "guided_grammar": 'root ::= "a" root | "b"', "n": 2},
]
CHATS: list[dict[str, Any]] = [
    {"temperature": 0, "max_tokens": 20},
    {"seed": 3, "logprobs": True, "top_logprobs": 3, "max_completion_tokens": 12},
    {"seed": 4, "n": 3, "stop": ["return"], "max_tokens": 40},
    {"seed": 5, "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    {"seed": 6, "structured_outputs": {"choice": ["left", "right"]}, "n": 4},
    {"seed": 7, "tool_choice": "required", **TOOLS},
    {"seed": 8, "tool_choice": {"type": "function", "function": {"name": "add"}}, **TOOLS},
    {"seed": 9, "tool_choice": "none", **TOOLS, "max_tokens": 12},
    {"temperature": 0, "return_token_ids": True, "max_tokens": 9},
    {"seed": 10, "response_format": {"type": "json_object"}, "max_tokens": 60},
    {"seed": 11, **TOOLS, "max_tokens": 20},
]
CASES = [("/v1/completions", body) for body in COMPLETIONS] + [
    ("/v1/chat/completions", {"messages": MESSAGES, **body}) for body in CHATS
]
REFUSED = [
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 0}),
    ("/v1/completions", {"prompt": ["a", ""]}),
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 10**6}),
    ("/v1/chat/completions", {"messages": MESSAGES, "tools": [TOOL]}),  # the template shows none
    ("/v1/chat/completions", {"messages": MESSAGES, "top_logprobs": 3}),
    (
        "/v1/chat/completions",
        {"messages": MESSAGES, "structured_outputs": {"json": {"type": "no such type"}}},
    ),
]


@pytest.fixture(scope="module")
def clusters() -> Iterator[tuple[RunningCluster, RunningCluster]]:
    settings = {**BUNDLED, "router.trust_request_templates": True, "worker.deterministic": True}
    with (
        a_cluster({**settings, "router.split": "always"}) as split,
        a_cluster({**settings, "prefill.replicas": 0}) as alone,
    ):
        yield split, alone


@pytest.mark.parametrize(("path", "body"), CASES)
def test_answers_are_equal(
    clusters: tuple[RunningCluster, RunningCluster], path: str, body: dict[str, Any]
) -> None:
    split, alone = (whole(cluster, path, body) for cluster in clusters)
    assert split == alone
    assert split["status"] == 200, split
    streams = [stream(cluster, path, body) for cluster in clusters]
    assert streams[0] == streams[1]
    assert streams[0]["choices"] == as_streamed(split)
    assert streams[0]["usage"] == split["usage"]


@pytest.mark.parametrize(("path", "body"), REFUSED)
def test_refusals_are_equal(
    clusters: tuple[RunningCluster, RunningCluster], path: str, body: dict[str, Any]
) -> None:
    split, alone = (whole(cluster, path, body) for cluster in clusters)
    assert split == alone
    assert split["status"] == 400
    assert split["error"]["param"]


def test_the_split_pair_did_split(clusters: tuple[RunningCluster, RunningCluster]) -> None:
    split, alone = (moved_bytes(cluster) for cluster in clusters)
    assert split > 0
    assert alone == 0


def test_what_was_asked_for_is_what_comes(
    clusters: tuple[RunningCluster, RunningCluster],
) -> None:
    """Equal answers could be equally wrong."""
    _, alone = clusters
    schema = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    asked = {"messages": MESSAGES, "response_format": schema, "max_tokens": 120, "seed": 5}
    shaped = whole(alone, "/v1/chat/completions", asked)["choices"][0]["message"]["content"]
    assert set(json.loads(shaped)) == {"name", "old"}
    one = {"tool_choice": "required", "parallel_tool_calls": False, "seed": 3}
    called = {"messages": MESSAGES, **one, **TOOLS}
    (choice,) = whole(alone, "/v1/chat/completions", called)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert set(json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])) == {
        "a",
        "b",
    }
    allowed = {"prompt": PROMPT, "allowed_token_ids": [40, 41], "return_token_ids": True, "seed": 1}
    (choice,) = whole(alone, "/v1/completions", allowed)["choices"]
    assert set(choice["token_ids"]) <= {40, 41}


def moved_bytes(cluster: RunningCluster) -> float:
    """KV cache that has travelled; at least one prompt of this call's own."""
    asked = {"prompt": "y = 2\n" * 40, "max_tokens": 4, "temperature": 0}
    assert whole(cluster, "/v1/completions", asked)["status"] == 200
    metrics = httpx2.get(f"http://{cluster.addresses.http}/metrics", timeout=10).text
    name = "tandem_transfer_bytes_total "
    (line,) = [line for line in metrics.splitlines() if line.startswith(name)]
    return float(line.removeprefix(name))


def whole(cluster: RunningCluster, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The status and the body, less what differs from request to request."""
    response = httpx2.post(f"http://{cluster.addresses.http}{path}", json=body, timeout=60)
    answer = response.json()
    for changing in ("id", "created"):
        answer.pop(changing, None)
    for choice in answer.get("choices", ()):
        _name_calls(choice.get("message", {}))
    if "usage" in answer:  # who has a prefix depends on what was asked before
        del answer["usage"]["prompt_tokens_details"]
    return {"status": response.status_code, **answer}


def stream(cluster: RunningCluster, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The first event, and every choice put together: how many chunks it takes is a matter of
    time."""
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    response = httpx2.post(f"http://{cluster.addresses.http}{path}", json=asked, timeout=60)
    if response.status_code != 200:
        raise AssertionError(response.text)
    *events, done = response.text.strip().split("\n\n")
    assert done == "data: [DONE]"
    *chunks, last = [json.loads(event.removeprefix("data: ")) for event in events]
    assert last["choices"] == []
    del last["usage"]["prompt_tokens_details"]
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        _add(choices.setdefault(choice["index"], {"text": "", "calls": {}}), choice)
    return {
        "status": 200,
        "first": chunks[0]["choices"][0].get("delta"),
        "choices": choices,
        "usage": last["usage"],
    }


def _add(total: dict[str, Any], choice: dict[str, Any]) -> None:
    delta = choice.get("delta", {"content": choice.get("text")})
    total["text"] += delta.get("content") or ""
    for call in delta.get("tool_calls", ()):
        known = total["calls"].setdefault(call["index"], {"name": "", "arguments": ""})
        for key, value in call["function"].items():
            known[key] += value or ""
    if choice["finish_reason"]:
        total["ended"] = (choice["finish_reason"], choice["stop_reason"])


def as_streamed(answer: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """A whole answer in the shape that `stream` has."""
    return {
        choice["index"]: {
            "text": choice.get("message", {"content": choice.get("text")})["content"] or "",
            "calls": {
                number: call["function"]
                for number, call in enumerate(choice.get("message", {}).get("tool_calls", ()))
            },
            "ended": (choice["finish_reason"], choice["stop_reason"]),
        }
        for choice in answer["choices"]
    }


def _name_calls(message: dict[str, Any]) -> None:
    """Calls are named by a draw."""
    for number, call in enumerate(message.get("tool_calls", ())):
        call["id"] = str(number)
