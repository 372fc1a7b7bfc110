"""Answers that follow a grammar, from real processes: split, alone, and when a worker dies."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from cluster.bundled import BUNDLED_MODEL
from cluster.running import RunningCluster
from tests.system.clusters import ARITHMETIC, BUNDLED, a_cluster

FUNCTION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z_]{3,12}$"},
        "arguments": {"type": "array", "items": {"enum": ["a", "b", "self"]}, "maxItems": 4},
        "lines": {"type": "integer", "minimum": 1, "maximum": 400},
    },
    "required": ["name", "arguments", "lines"],
    "additionalProperties": False,
}
NUMBERS: dict[str, Any] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 9999},
    "minItems": 150,
    "maxItems": 150,
}

MARKS = ("<tool_call>", "</tool_call>")


def a_client(cluster: RunningCluster) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"http://{cluster.addresses.http}/v1",
        api_key="none",
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    )


def following(schema: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A request for an answer of this shape."""
    return {
        "model": "tiny-python",
        "messages": [{"role": "user", "content": "def describe(function):"}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": schema},
        },
        **fields,
    }


async def answers(settings: dict[str, Any]) -> list[str | None]:
    """To 24 requests with seeds of their own, 8 at a time; every second one free of grammars."""
    permits = asyncio.Semaphore(8)
    with a_cluster(settings) as cluster:
        async with a_client(cluster) as client:

            async def answer(seed: int) -> str | None:
                request = following(FUNCTION, seed=seed, max_tokens=300, temperature=1.0)
                if seed % 2:
                    del request["response_format"]
                    request["max_tokens"] = 24
                async with permits:
                    made = await client.chat.completions.create(**request)
                if seed % 2 == 0:
                    assert made.choices[0].finish_reason == "stop"
                return made.choices[0].message.content

            return await asyncio.gather(*map(answer, range(24)))


@pytest.mark.timeout(600)
async def test_a_split_cluster_gives_the_json_of_one_worker_alone() -> None:
    together = await answers(BUNDLED)
    alone = await answers({**BUNDLED, "prefill.replicas": 0})
    assert together == alone
    described = [json.loads(text or "") for text in together[::2]]
    assert all(set(each) == {"name", "arguments", "lines"} for each in described)
    assert len({each["name"] for each in described}) > 6


async def numbers(client: openai.AsyncOpenAI, cluster: RunningCluster, victim: str | None) -> str:
    """A long list; in the middle of it a worker is killed."""
    text = ""
    stream = await client.chat.completions.create(
        **following(NUMBERS, seed=1, max_tokens=4000, stream=True)
    )
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        if victim is not None and len(text) > 100:
            cluster.signal_worker(victim, signal.SIGKILL)
            victim = None
    assert victim is None, "the answer was over before the worker died"
    return text


@pytest.mark.timeout(600)
async def test_a_worker_that_dies_within_the_json_costs_nothing() -> None:
    with a_cluster({**ARITHMETIC, "worker.step_s": 0.005}) as cluster:
        async with a_client(cluster) as client:
            undisturbed = await numbers(client, cluster, None)
            again = await numbers(client, cluster, "decode-0")
        metrics = httpx2.get(f"http://{cluster.addresses.http}/metrics", timeout=60).text
    assert len(json.loads(undisturbed)) == 150
    assert again == undisturbed
    assert "tandem_resubmissions_total 1.0" in metrics


def a_model_with_tools(directory: Path) -> Path:
    """The bundled one's text side, with a chat template that shows tools, and the marks of calls
    as added tokens that are text, as Qwen has them."""
    directory.mkdir()
    for name in ("config.json", "generation_config.json"):
        shutil.copy(BUNDLED_MODEL / name, directory)
    tokenizer = json.loads((BUNDLED_MODEL / "tokenizer.json").read_text())
    model = tokenizer["model"]
    del model["merges"][-len(MARKS) :]  # they made the last words, whose places are needed
    words = sorted(model["vocab"], key=model["vocab"].get)
    for mark, word in zip(MARKS, words[-len(MARKS) :], strict=True):
        like = {**tokenizer["added_tokens"][0], "special": False}
        place = model["vocab"].pop(word)
        tokenizer["added_tokens"].append({**like, "id": place, "content": mark})
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((BUNDLED_MODEL / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ tools | tojson }}" + settings["chat_template"]
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


@pytest.mark.parametrize("parser", ["hermes", "mistral"])
async def test_a_call_that_must_be_made_is_made_and_told(tmp_path: Path, parser: str) -> None:
    tool = {"type": "function", "function": {"name": "describe", "parameters": FUNCTION}}
    model = a_model_with_tools(tmp_path / "tools")
    settings = {**ARITHMETIC, "model": str(model), "router.tool_parser": parser}
    with a_cluster(settings) as cluster:
        async with a_client(cluster) as client:
            answer = await client.chat.completions.create(
                model="tools",
                messages=[{"role": "user", "content": "def add(a, b):"}],
                tools=[tool],  # type: ignore[list-item]
                tool_choice="required",
                parallel_tool_calls=False,
                max_tokens=600,
            )
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "describe"
    assert set(json.loads(call.function.arguments)) == {"name", "arguments", "lines"}
