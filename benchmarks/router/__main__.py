"""The router under load, beside other routers that proxy HTTP.

    python -m benchmarks.router [--peer NAME=HOST:PORT@PID]

Workers compute nothing. Four of them generate a token for every stream at regular times, 5,000
tokens per second in total, whatever the number of streams. Prints the router's CPU time per request
(of one token, all sent at once) and per token; the lateness of tokens at the client, relative to
the promptest of the same stream, including workers and client; and errors. Prompts are texts of
some hundred tokens, and answers are detokenized. A peer must be started before, with four workers
of its own, such as `python -m benchmarks.router.backend --step-s 0.0512`,
which is the step of 256 streams.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from typing import Annotated

import grpc
import numpy as np
import typer
import uvloop
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.measure import family_cpu_s, timed
from benchmarks.router.cluster import Target, a_cluster
from benchmarks.router.streams import Seen, read_grpc, read_sse
from benchmarks.serving import Server
from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc

TOKENS_PER_S = 5000.0
SECONDS = 10.0
BURSTS = 3
WARM_S = 0.5
"""Seconds after the start of the last stream, after which latency is measured."""
WORDS = ("def", "read", "lines", "from", "a", "path", "return", "the", "first", "not", "empty")


def main(
    streams: Annotated[str, typer.Option(help="How many at a time, with commas.")] = "32,256,1000",
    door: Annotated[str, typer.Option(help="grpc, http, or both with a comma.")] = "grpc,http",
    routers: Annotated[str, typer.Option(help="Numbers of processes, with commas.")] = "1",
    tokens_per_s: Annotated[float, typer.Option(help="Of all streams together.")] = TOKENS_PER_S,
    seconds: Annotated[float, typer.Option(help="Of each load, about.")] = SECONDS,
    peer: Annotated[
        list[str] | None, typer.Option(help="NAME=HOST:PORT@PID; may be repeated.")
    ] = None,
) -> None:
    peers = [Server.parse(given) for given in peer or []]
    columns = ("router", "door", "streams", "CPU ms/request", "tokens/s", "CPU us/token")
    table = Table(*columns, "late p50 ms", "p99 ms", "TTFT p50 ms", "p99 ms", "errors")
    for num_streams in map(int, streams.split(",")):
        step_s = num_streams / tokens_per_s
        length = max(8, round(seconds / step_s))
        for num_routers in map(int, routers.split(",")):
            with a_cluster(step_s, num_routers, num_streams) as target:
                for name in door.split(","):
                    table.add_row(*_row(target, name, num_streams, step_s, length))
        for one in peers:
            target = Target(one.name, one.address, None, (one.pid,))
            table.add_row(*_row(target, "http", num_streams, step_s, length))
    Console(width=140).print(table)


def _row(
    target: Target, door: str, num_streams: int, step_s: float, length: int
) -> tuple[str, ...]:
    """Figures of one load; the time in which streams begin counts, but not for lateness."""
    request_s = _request_cpu_s(target, door, num_streams)
    seen = Seen()
    wall_s, spent_s = _loaded(target, door, num_streams, length, seen)
    all_begun = max(arrivals[0] for arrivals in seen.arrivals if arrivals) + WARM_S
    late = np.concatenate([_lateness(it, all_begun, step_s) for it in seen.arrivals])
    return (
        target.name,
        door,
        str(num_streams),
        f"{request_s * 1e3:.2f}",
        f"{seen.num_tokens / wall_s:.0f}",
        f"{spent_s / max(1, seen.num_tokens) * 1e6:.1f}",
        *(f"{np.percentile(late, at) * 1e3:.2f}" for at in (50, 99)),
        f"{statistics.median(seen.ttft_s) * 1e3:.1f}",
        f"{np.percentile(seen.ttft_s, 99) * 1e3:.1f}",
        str(seen.num_errors),
    )


def _request_cpu_s(target: Target, door: str, num_requests: int) -> float:
    """CPU seconds per request of concurrent requests for one token each: the median of BURSTS,
    after one for warm-up."""
    spent = []
    for burst in range(BURSTS + 1):
        seen = Seen()
        _, spent_s = _loaded(target, door, num_requests, 1, seen, seed=burst)
        spent.append(spent_s / num_requests)
    return statistics.median(spent[1:])


def _loaded(
    target: Target, door: str, num_streams: int, length: int, seen: Seen, seed: int = 0
) -> tuple[float, float]:
    """Elapsed seconds of a load, and the router's CPU seconds."""
    before = sum(map(family_cpu_s, target.pids))
    wall_s = timed(lambda: uvloop.run(_load(target, door, num_streams, length, seen, seed)))
    return wall_s, sum(map(family_cpu_s, target.pids)) - before


def _lateness(arrivals: list[float], since: float, step_s: float) -> NDArray[np.float64]:
    """Lateness of each token of a stream, in seconds; all were generated at multiples of the step.

    Relative to the first percentile, since the workers' clocks are not exact either.
    """
    times = np.array([at for at in arrivals if at >= since])
    if not len(times):
        return times
    middle = np.angle(np.exp(2j * np.pi * times / step_s).mean()) / (2 * np.pi) * step_s
    late = (times - middle + step_s / 2) % step_s
    return np.asarray(np.maximum(0.0, late - np.percentile(late, 1)))


async def _load(
    target: Target, door: str, num_streams: int, length: int, seen: Seen, seed: int
) -> None:
    draw = random.Random(f"{num_streams}/{seed}")
    prompts = [" ".join(draw.choices(WORDS, k=100)) for _ in range(num_streams)]
    if door == "http":
        bodies = ({**_settings(length), "prompt": prompt} for prompt in prompts)
        await asyncio.gather(*(read_sse(target.http, body, seen) for body in bodies))
        return
    assert target.grpc is not None
    options = [("grpc.max_concurrent_streams", 4096)]
    async with grpc.aio.insecure_channel(target.grpc, options=options) as channel:
        stub = rpc.InferenceStub(channel)  # type: ignore[no-untyped-call]
        requests = (
            pb.GenerateRequest(text=prompt, max_tokens=length, ignore_eos=True)
            for prompt in prompts
        )
        await asyncio.gather(*(read_grpc(stub, request, seen) for request in requests))


def _settings(length: int) -> dict[str, object]:
    return {
        "model": "tiny-python",
        "max_tokens": length,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


if __name__ == "__main__":
    typer.run(main)
