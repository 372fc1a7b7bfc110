"""Several answers to one prompt, which is computed once; and several prompts of one request.

The first branch goes through the fleet like any request. Once a worker decodes it, that worker has
the prompt's blocks: the other branches are submitted there, where they find them in the prefix
cache, and from then on each is a journey of its own, with failures of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from router.journeys.branch import AnswerContext, Branch
from router.requests.request import GenerateRequest


async def answer_prompt(shared: AnswerContext, request: GenerateRequest, first_index: int) -> None:
    """Send all answers to one prompt; the first that fails fails them all."""
    with shared.model.watcher.counting_failure(request):
        await _answer_prompt(shared, request, first_index)


async def _answer_prompt(shared: AnswerContext, request: GenerateRequest, first_index: int) -> None:
    metrics = shared.metrics
    with metrics.child(metrics.admission, shared.model.name).time():
        admitted = await shared.model.admission_queue.enter(request)
    first = Branch(shared, request, admitted, first_index)
    if request.n == 1:
        await first.run()
        return
    async with _all_or_none() as group:
        group.create_task(first.run(), name="answer 0")
        home = await first.journey.home()
        for number in range(1, request.n):
            own = branch_request(request, number, first.journey.elapsed_s)
            branch = Branch(
                shared, own, admitted, first_index + number, at=home, counts_prompt=False
            )
            group.create_task(branch.run(), name=f"answer {number}")
            await asyncio.sleep(0)  # a long prompt takes time for each: others go between


async def run_together(answers: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run the answers to several prompts; the first that fails fails them all."""
    if len(answers) == 1:
        await answers[0]
        return
    async with _all_or_none() as group:
        for number, answer in enumerate(answers):
            group.create_task(answer, name=f"prompt {number}")


@asynccontextmanager
async def _all_or_none() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises its first error alone: a client is told one."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def branch_request(request: GenerateRequest, branch: int, elapsed_s: float) -> GenerateRequest:
    """The request with a seed of its own, derived from the request's seed and the branch's
    number."""
    sampling = msgspec.structs.replace(
        request.sampling,
        seed=branch_seed(request.sampling.seed, branch),
        prompt_logprobs=None,  # those of the first are those of all
    )
    timeout_s = max(0.0, request.timeout_s - elapsed_s)
    return msgspec.structs.replace(request, sampling=sampling, timeout_s=timeout_s)


def branch_seed(seed: int, branch: int) -> int:
    """63 bits; the first branch draws as a request alone would."""
    if branch == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{branch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
