"""Where splitting loses: conversations whose prompts are mostly cached (llm-d, agentic-kvc).

Published: of Llama-3.1-70B on four H100s each, one prefill and three decode instances, code agents
(30K tokens before the first turn, 1.5K new ones a turn, 15 turns) wait up to 20 × as long for a
first token when every request is split as when none is (llm-d.github.io, 2026-06-05, simulated);
on eight GPUs an agent trace has a median TTFT of 1.01 s without and 1.48 and 1.99 s with 6 + 2 and
4 + 4 workers (agentic-kvc, measured). NVIDIA's DynoSim finds split worse for an agent trace under
every target.

Assumed: step times by roofline of the known device h100; the agent traces are not in the data
(kvcache-ai/Mooncake's FAST25-release/traces/toolagent_trace.jsonl is one to fetch), so that made-up
conversations of those lengths are served, 4 s after the last answer was asked for on average,
answers of 200 tokens, at 0.4 of what the prompts alone would allow. A TPOT of 40 ms, 1.6 × a step,
is the target of all three. Chat has 5K tokens before its first turn, 50 new ones a turn, 4 turns.
What counts is the mean TTFT beside that of workers that split nothing: above 1 `always` loses, and
near 1 `auto` is neutral.
"""

from __future__ import annotations

import random
from itertools import count, islice
from pathlib import Path

import msgspec

from benchmarks.published.result import Result
from benchmarks.published.serving import pool, serve
from benchmarks.published.taichi import LLAMA_70B
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
USE = 0.4
CHAT = {"prefix": 5000, "append": 50, "answer": 200, "turns": 4, "think": 4.0, "sigma": 0.3}
CODE = {"prefix": 30000, "append": 1500, "answer": 200, "turns": 15, "think": 4.0, "sigma": 0.3}
FIXED = (Split.NEVER, Split.ALWAYS)
SETTINGS = (
    ("chat, 5K + 50, 1 + 3 workers", CHAT, 1, 3, None),
    ("code agents, 30K + 1.5K, 1 + 3 workers", CODE, 1, 3, 20.0),
    ("code agents, 4 + 4 workers", CODE, 4, 4, 1.99 / 1.01),
)


def results(measured: Path) -> list[Result]:
    shape = msgspec.structs.replace(LLAMA_70B, max_model_len=1 << 17)
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
    load = _load(options, USE * (num_prefill + num_decode) / new_s / 4)
    never, always = (_mean_ttft_s(pools, load, split, Roles.FIXED) for split in FIXED)
    auto = _mean_ttft_s(pools, load, Split.AUTO, Roles.FOLLOW)
    return [
        Result(
            setting=name,
            quantity="`always`, times the TTFT of `never`",
            published=published or 2.0,
            ours=always / never,
        ),
        Result(
            setting=name,
            quantity="`auto`, times the TTFT of `never`",
            published=1.0,
            ours=auto / never,
            bar=0.1,
        ),
    ]


def _load(options: dict[str, float], per_s: float) -> list[Arrival]:
    """Turns of conversations; the prefix that all share is the system prompt and the code."""
    draw = random.Random(1)
    return list(islice(conversations(options, per_s, draw, count(1)), NUM_REQUESTS))


def _mean_ttft_s(pools: list[WorkerPool], load: list[Arrival], split: Split, roles: Roles) -> float:
    router = RouterSettings(max_queued=None, split=split, roles=roles)
    served = serve(pools, load, router, Slo(TTFT_S, TPOT_S))
    waits = [each.ttft_s for each in served if each.ttft_s is not None]
    return sum(waits) / len(waits)
