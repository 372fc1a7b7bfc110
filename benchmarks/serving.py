"""OpenAI-compatible servers compared, with the same requests in alternation.

    python -m benchmarks.serving --server tandem=127.0.0.1:8000@PID --server peer=127.0.0.1:81@PID

Three workloads: W1, 16 concurrent requests, 512 tokens in and 64 out; W2, the same with 8 shared
prefixes of 448 tokens; W3, one request at a time, 128 in and 128 out. Every server gets the same
prompts, and each repetition new ones, which none has cached. Results are medians over repetitions.
A server's CPU time is that of the process PID and its descendants. Servers must be started before,
and serve one model each; prompts are random token ids.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import typer
from openai import AsyncOpenAI
from rich.console import Console
from rich.table import Table

from benchmarks.measure import family_cpu_s

TIMEOUT_S = 600
PAUSE_S = 2.0
"""Seconds before each repetition, so that a server's spinning threads do not disturb the next
one."""


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    concurrency: int
    num_requests: int
    prefix_tokens: int
    prompt_tokens: int
    """Prompt tokens after the shared prefix."""
    output_tokens: int
    num_prefixes: int = 1

    def prompts(self, draw: random.Random, vocab_size: int) -> list[list[int]]:
        def tokens(count: int) -> list[int]:
            return [draw.randrange(5, vocab_size) for _ in range(count)]

        prefixes = [tokens(self.prefix_tokens) for _ in range(self.num_prefixes)]
        return [
            prefixes[number % self.num_prefixes] + tokens(self.prompt_tokens)
            for number in range(self.num_requests)
        ]


WORKLOADS = (
    Workload("W1", 16, 32, 0, 512, 64),
    Workload("W2", 16, 32, 448, 64, 64, num_prefixes=8),
    Workload("W3", 1, 4, 0, 128, 128),
)


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    address: str
    pid: int

    @staticmethod
    def parse(given: str) -> Server:
        name, _, rest = given.partition("=")
        address, _, pid = rest.partition("@")
        if not (name and address and pid.isdecimal()):
            raise typer.BadParameter(f"{given!r}: expected NAME=HOST:PORT@PID")
        return Server(name, address, int(pid))


@dataclass(slots=True)
class Run:
    """One repetition at one server; times in seconds."""

    num_tokens: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    ttft_s: list[float] = field(default_factory=list)
    tpot_s: list[float] = field(default_factory=list)


def main(
    server: Annotated[list[str], typer.Option(help="NAME=HOST:PORT@PID; may be repeated.")],
    workload: Annotated[str, typer.Option(help="Which of W1, W2 and W3.")] = "W1,W2,W3",
    repetitions: Annotated[int, typer.Option(help="Of each workload.")] = 3,
    vocab_size: Annotated[int, typer.Option(help="Prompts have smaller token ids.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the prompts.")] = 0,
) -> None:
    servers = [Server.parse(given) for given in server]
    wanted = [it for it in WORKLOADS if it.name in workload.split(",")]
    draw = random.Random(seed)
    table = Table("workload", "server", "tokens/s", "TTFT ms", "TPOT ms", "CPU ms/token")
    for it in wanted:
        runs: dict[str, list[Run]] = {one.name: [] for one in servers}
        for _ in range(repetitions):
            prompts = it.prompts(draw, vocab_size)
            for one in servers:
                time.sleep(PAUSE_S)
                runs[one.name].append(asyncio.run(_load(one, it, prompts)))
        for name, done in runs.items():
            table.add_row(it.name, name, *_figures(done))
    Console().print(table)


def _figures(runs: Sequence[Run]) -> tuple[str, ...]:
    speed = statistics.median(run.num_tokens / run.wall_s for run in runs)
    ttft = statistics.median(statistics.median(run.ttft_s) for run in runs)
    tpot = statistics.median(statistics.median(run.tpot_s) for run in runs)
    cpu = statistics.median(run.cpu_s / run.num_tokens for run in runs)
    return f"{speed:.1f}", f"{ttft * 1e3:.0f}", f"{tpot * 1e3:.1f}", f"{cpu * 1e3:.2f}"


async def _load(server: Server, workload: Workload, prompts: list[list[int]]) -> Run:
    """Send all prompts, with the workload's concurrency."""
    run, places = Run(), asyncio.Semaphore(workload.concurrency)
    url = f"http://{server.address}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", timeout=TIMEOUT_S) as client:
        (model,) = (await client.models.list()).data

        async def ask(prompt: list[int]) -> None:
            async with places:
                await _ask(client, model.id, prompt, workload.output_tokens, run)

        cpu_s, started = family_cpu_s(server.pid), time.perf_counter()
        await asyncio.gather(*map(ask, prompts))
        run.wall_s = time.perf_counter() - started
        run.cpu_s = family_cpu_s(server.pid) - cpu_s
    return run


async def _ask(
    client: AsyncOpenAI, model: str, prompt: list[int], output_tokens: int, run: Run
) -> None:
    started = time.perf_counter()
    stream = await client.completions.create(
        model=model,
        prompt=prompt,
        max_tokens=output_tokens,
        temperature=0.0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    first = last = None
    async for chunk in stream:
        if chunk.choices:
            last = time.perf_counter()
            first = first or last
        if chunk.usage is not None:
            run.num_tokens += chunk.usage.completion_tokens
    assert first is not None
    assert last is not None
    run.ttft_s.append(first - started)
    run.tpot_s.append((last - first) / max(1, output_tokens - 1))


if __name__ == "__main__":
    typer.run(main)
