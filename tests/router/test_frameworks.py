"""Frameworks that people build on OpenAI's interface, as they are: nothing is set but an address.

OpenAI's own client has test_openai_surface.py.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tokenizers import Tokenizer

from tests.router.conftest import Stage, StartStage
from tests.router.fake_worker import FakeWorker
from tests.router.test_generate import ids
from tests.router.tiny_model import one_model, write_model
from wire.identity import Role
from wire.messages import Submit

CALL = json.dumps({"name": "add", "arguments": {"a": 2, "b": 3}})
ANSWER = "The sum is 5."
LONG = 2048
"""Tokens that the model reads: frameworks describe their tools at length."""


@pytest_asyncio.fixture
async def worker(stage_with_tools: Stage, backend: Tokenizer) -> AsyncIterator[FakeWorker]:
    """Calls a tool first, and answers with its result then."""
    worker = await stage_with_tools.add("lone", Role.DECODE, max_model_len=LONG)
    answers = (ids(backend, text) for text in (f"<tool_call>{CALL}</tool_call>", ANSWER))

    async def serve(submit: Submit) -> None:
        worker.script = next(answers)
        await worker.serve_script(submit)

    worker.serve = serve
    yield worker


@pytest_asyncio.fixture
async def stage_with_tools(start_stage: StartStage, tmp_path: Path) -> Stage:
    model = one_model(write_model(tmp_path / "tiny", LONG))
    return await start_stage(models=model, tool_parser="hermes")


@pytest.mark.parametrize("streamed", [False, True])
async def test_pydantic_ai_runs_an_agent_with_a_tool(
    stage_with_tools: Stage, worker: FakeWorker, backend: Tokenizer, streamed: bool
) -> None:
    missing = "pydantic-ai-slim is not installed: pip install -e '.[dev]'"
    pydantic_ai = pytest.importorskip("pydantic_ai", reason=missing)
    models = pytest.importorskip("pydantic_ai.models.openai", reason=missing)
    providers = pytest.importorskip("pydantic_ai.providers.openai", reason=missing)
    url = f"http://{stage_with_tools.addresses.http}/v1"
    provider = providers.OpenAIProvider(base_url=url, api_key="none")
    agent = pydantic_ai.Agent(models.OpenAIChatModel("tiny", provider=provider))
    called = []

    @agent.tool_plain
    def add(a: int, b: int) -> int:
        called.append((a, b))
        return a + b

    async with provider.client:
        if streamed:
            async with agent.run_stream("What is 2 + 3?") as result:
                pieces = [piece async for piece in result.stream_text(delta=True)]
                text, usage = "".join(pieces), result.usage
        else:
            run = await agent.run("What is 2 + 3?")
            text, usage = run.output, run.usage
    assert called == [(2, 3)]
    assert text == ANSWER
    assert (usage.requests, usage.tool_calls) == (2, 1)
    assert usage.output_tokens > len(ids(backend, ANSWER))
    second = await worker.hears(Submit, 2)
    assert "5" in backend.decode([*second.tokens], skip_special_tokens=False)
