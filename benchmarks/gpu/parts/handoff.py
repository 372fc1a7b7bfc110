"""A prefill and a decode worker on one device, whose answers must be those of one worker alone.

In float32 many requests at a time: rounding, which depends on what shares a step, changes no token.
In bfloat16 it does, so that requests go one at a time, in equal steps on either side.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.gpu.context import Context, guarded
from benchmarks.gpu.finding import Finding, check, figure, skipped
from benchmarks.gpu.needs import why_no_nixl
from benchmarks.gpu.workers import GIB, worker_settings
from benchmarks.split_equals_alone import Answer, differ, random_requests, serve
from cluster.bundled import BUNDLED_MODEL

ALWAYS = {"model": str(BUNDLED_MODEL), "router.split": "always"}
CHUNK_TOKENS = 2048
"""For both roles, so that prompts are cut alike."""


@dataclass(frozen=True, slots=True)
class Size:
    dtype: str
    num_requests: int
    at_a_time: int
    longest: int


GPU = (Size("float32", 200, 16, 2000), Size("bfloat16", 40, 1, 2000))
CPU = (Size("float32", 12, 4, 200),)


def run(context: Context) -> Iterator[Finding]:
    if (reason := why_no_nixl()) is not None:
        yield skipped("two workers", reason)
        return
    for size in GPU if context.on_gpu else CPU:
        yield from guarded(context, size.dtype, lambda size=size: _compare(context, size))
    if not context.on_gpu:
        yield skipped("bfloat16", "needs a GPU")


def _compare(context: Context, size: Size) -> Iterator[Finding]:
    settings = worker_settings(context, GIB, dtype=size.dtype, chunk_tokens=CHUNK_TOKENS)
    requests = random_requests(size.num_requests, size.longest)
    started = time.perf_counter()
    together = serve({**settings, **ALWAYS}, requests, size.at_a_time)
    took_s = time.perf_counter() - started
    yield figure(f"{size.dtype}, two workers", f"{took_s:.0f} s with their start", seconds=took_s)
    handed = sum(_was_handed_over(answer) for answer in together)
    moved = sum(answer.moved_bytes for answer in together)
    yield check(
        f"{size.dtype}, handed over",
        handed == size.num_requests,
        f"{handed} of {size.num_requests} requests, {moved / 1e6:.0f} MB",
        bytes=moved,
    )
    alone = serve({**settings, **ALWAYS, "prefill.replicas": 0}, requests, size.at_a_time)
    other = [i for i, pair in enumerate(zip(together, alone, strict=True)) if differ(*pair)]
    text = f"{size.num_requests - len(other)} of {size.num_requests} answers equal"
    yield check(
        f"{size.dtype}, equal to one", not other, f"{text}; others: {other[:10]}" if other else text
    )


def _was_handed_over(answer: Answer) -> bool:
    prefill, decode = answer.served_by
    return prefill != decode and answer.moved_bytes > 0
