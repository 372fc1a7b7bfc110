"""Checks that disaggregated serving generates the same tokens as a single worker.

    python -m benchmarks.split_equals_alone [--device cuda --dtype bfloat16] [--model DIR]

On a GPU both workers share the device, and the KV cache moves between their device memories.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path
from typing import Annotated, Any

import grpc
import msgspec
import typer

from cluster.bundled import BUNDLED_MODEL
from cluster.config import load_config
from cluster.process_launcher import ProcessLauncher
from cluster.running import running
from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc

TIMEOUT_S = 300


class Answer(msgspec.Struct, frozen=True):
    """The result of one request. `moved_bytes` of KV cache were transferred for it."""

    tokens: tuple[int, ...]
    served_by: tuple[str, str]
    moved_bytes: int


def random_requests(
    count: int, longest: int, vocab_size: int = 2048, max_tokens: int = 16
) -> list[pb.GenerateRequest]:
    """Prompts of 1 to `longest` tokens; every other one greedy, the rest sampled with a seed."""
    draw = random.Random(4)
    requests = []
    for number in range(count):
        prompt = [draw.randrange(5, vocab_size) for _ in range(draw.randint(1, longest))]
        sampling: dict[str, Any] = {"temperature": 0.0}
        if number % 2:
            sampling = {"temperature": 0.9, "top_p": 0.95, "top_k": 50, "seed": number}
        request = pb.GenerateRequest(
            token_ids=pb.TokenIds(ids=prompt),
            max_tokens=max_tokens,
            ignore_eos=True,
            sampling=pb.Sampling(**sampling),
        )
        requests.append(request)
    return requests


def serve(
    settings: dict[str, Any], requests: list[pb.GenerateRequest], at_a_time: int
) -> list[Answer]:
    """Start a cluster of processes with these settings, and send all requests."""
    with running(load_config(None, settings), ProcessLauncher(), lambda line: None) as cluster:
        return asyncio.run(ask(cluster.addresses.grpc, requests, at_a_time))


async def ask(address: str, requests: list[pb.GenerateRequest], at_a_time: int) -> list[Answer]:
    permits = asyncio.Semaphore(at_a_time)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = rpc.InferenceStub(channel)  # type: ignore[no-untyped-call]

        async def one(request: pb.GenerateRequest) -> Answer:
            async with permits:
                return await _answer(stub, request)

        return list(await asyncio.gather(*map(one, requests)))


async def _answer(stub: rpc.InferenceStub, request: pb.GenerateRequest) -> Answer:
    tokens: list[int] = []
    last = pb.GenerateResponse()
    async for last in stub.Generate(request, timeout=TIMEOUT_S):
        tokens += last.token_ids
    served_by = (last.served_by.prefill_worker_id, last.served_by.decode_worker_id)
    return Answer(tuple(tokens), served_by, last.timing.transfer.num_bytes)


def main(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    model: Annotated[str, typer.Option(help="Model directory.")] = str(BUNDLED_MODEL),
    requests: Annotated[int, typer.Option(help="How many.")] = 200,
    at_a_time: Annotated[int, typer.Option(help="How many at a time.")] = 16,
) -> None:
    shared = {"model": model, "worker.device": device, "worker.dtype": dtype}
    questions = random_requests(requests, 2000, _vocab_size(model))
    together = serve(shared, questions, at_a_time)
    alone = serve({**shared, "prefill.replicas": 0}, questions, at_a_time)
    different = [i for i, pair in enumerate(zip(together, alone, strict=True)) if differ(*pair)]
    moved = sum(answer.moved_bytes for answer in together)
    print(f"{requests} requests, {moved / 1e6:.0f} MB of KV cache moved; different: {different}")
    sys.exit(1 if different else 0)


def differ(one: Answer, other: Answer) -> bool:
    return one.tokens != other.tokens


def _vocab_size(model: str) -> int:
    config = msgspec.json.decode((Path(model) / "config.json").read_bytes(), type=dict[str, Any])
    return int(config["vocab_size"])


if __name__ == "__main__":
    typer.run(main)
