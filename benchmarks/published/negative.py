"""Where splitting loses: conversations whose prompts are mostly cached (llm-d, agentic-kvc).

Published: of Llama-3.1-70B on four H100s each, one prefill and three decode instances, code agents
(30K tokens before the first turn, 1.5K new ones a turn, 15 turns) wait up to 20 × as long for a
first token when every request is split as when none is (llm-d.github.io, 2026-06-05, simulated);
on eight GPUs an agent trace has a median TTFT of 1.01 s without, and 1.48 and 1.99 s with 6 + 2 and
4 + 4 workers (agentic-kvc, measured). NVIDIA's DynoSim finds split worse for an agent trace under
every target.

Assumed: step times by roofline of the known device h100; the agent traces are not in the data
(kvcache-ai/Mooncake's FAST25-release/traces/toolagent_trace.jsonl is one to fetch), so that made-up
conversations of those lengths are served, turns 4 s apart on average, answers of 200 tokens, at 0.1
of what the new tokens alone would allow, 90 requests. The 30K tokens are common to all of them
with 1 + 3 workers (instructions and tools), and each conversation's own with eight. A TPOT of 40 ms
is the target of all, which is several times a step: nothing asks for splitting. Chat has 5K tokens
before its first turn, 50 new ones a turn, 4 turns; nothing is published of it but that it is worse.
What counts is the mean TTFT beside that of workers that split nothing: above 1 `always` loses, and
up to 1.1 `auto` is neutral.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import msgspec

from benchmarks.published.result import Result
from benchmarks.published.serving import pool, serve
from benchmarks.published.taichi import LLAMA_2_70B
from router.config import Roles
from router.placing.placement_request import Slo, Split
from sim.devices.device import read_device
from sim.devices.roofline import machine_of
from sim.machine import MachineModel
from sim.router import RouterSettings
from sim.simulation import WorkerPool
from sim.traces import Arrival
from sim.traces.conversation import conversations
from wire.identity import Role

NUM_REQUESTS = 90
TENSOR_PARALLEL = 4
TPOT_S, TTFT_S = 0.040, 20.0
CHUNK = 2048
USE = 0.1
OWN_CONTENT = 1 << 28
CHAT = {"prefix": 5000, "append": 50, "answer": 200, "turns": 4, "think": 4.0, "sigma": 0.3}
CODE = {"prefix": 30000, "append": 1500, "answer": 200, "turns": 15, "think": 4.0, "sigma": 0.3}
FIXED = (Split.NEVER, Split.ALWAYS)
OWN = {**CODE, "own": 1.0}
SETTINGS = (
    ("chat, 5K + 50, 1 + 3 workers", CHAT, 1, 3, None),
    ("code agents, 30K + 1.5K, 1 + 3 workers", CODE, 1, 3, 20.0),
    ("agents, 30K of their own, 6 + 2 workers", OWN, 6, 2, 1.48 / 1.01),
    ("agents, 30K of their own, 4 + 4 workers", OWN, 4, 4, 1.99 / 1.01),
)


def results(measured: Path) -> list[Result]:
    shape = msgspec.structs.replace(LLAMA_2_70B, max_model_len=1 << 17)
    machine = machine_of(read_device("h100"), shape, TENSOR_PARALLEL)
    return [each for setting in SETTINGS for each in _compare(machine, *setting)]


def _compare(
    machine: MachineModel,
    name: str,
    options: dict[str, float],
    num_prefill: int,
    num_decode: int,
    published: float | None,
) -> list[Result]:
    pools = [
        pool(Role.PREFILL, num_prefill, machine, chunk_tokens=CHUNK, tpot_s=TPOT_S),
        pool(Role.DECODE, num_decode, machine, chunk_tokens=CHUNK, tpot_s=TPOT_S),
    ]
    new_s = options["append"] * machine.prompt_token_s + options["answer"] * machine.sequence_s
    load = _load(options, USE * (num_prefill + num_decode) / new_s)
    never, always = (_mean_ttft_s(pools, load, split, Roles.FIXED) for split in FIXED)
    auto = _mean_ttft_s(pools, load, Split.AUTO, Roles.FOLLOW)
    return [
        Result(
            setting=name,
            quantity="`always`, times the TTFT of `never`",
            published=published or 1.0,
            ours=always / never,
        ),
        Result(
            setting=name,
            quantity="`auto`, times the TTFT of `never`",
            published=1.0,
            ours=auto / never,
            bar=0.1,
            at_most=True,
        ),
    ]


def _load(options: dict[str, float], per_s: float) -> list[Arrival]:
    """Turns of conversations. What comes before the first turn is common to all, or where the
    options say so each one's own: its first turn's content tells them apart."""
    draw = random.Random(1)
    turns = islice(conversations(options, per_s, draw, count(1)), NUM_REQUESTS)
    if "own" not in options:
        return list(turns)
    return [
        replace(turn, pieces=((OWN_CONTENT + second, length), (second, asked), *rest))
        for turn in turns
        for (_, length), (second, asked), *rest in [turn.pieces]
    ]


def _mean_ttft_s(pools: list[WorkerPool], load: list[Arrival], split: Split, roles: Roles) -> float:
    router = RouterSettings(max_queued=None, split=split, roles=roles)
    served = serve(pools, load, router, Slo(TTFT_S, TPOT_S))
    waits = [each.ttft_s for each in served if each.ttft_s is not None]
    return sum(waits) / len(waits)
