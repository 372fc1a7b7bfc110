"""DistServe's toy (OSDI 2024, section 2): OPT-13B on A100s, prompts of 512 and answers of 64.

Published: within a TTFT of 0.4 s and a TPOT of 40 ms for 90 % of the requests, one GPU that does
both serves 1.6 requests/s, and two prefill GPUs and a decode GPU serve 3.3 each: 2.1 ×.

Assumed: step times from the profiles in DistServe's simulator (OPT-13B, one A100), of vLLM and of
its own engine, each for both sides; prefill and decode steps differ in their fixed part, so that
each pool has its own, and the GPU that does both the decode one's. The baseline computes whole
prompts, in steps without answers, before anything else, as vLLM then did. The decode GPU gets KV
blocks over NVLink (300 GB/s). Every prompt and answer has the same length, arrivals are Poisson's,
250 requests.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from benchmarks.placement.policies import goodput
from benchmarks.published.result import Result, needed
from benchmarks.published.serving import (
    fixed,
    machine,
    most_per_s,
    poisson,
    pool,
    serve,
)
from router.placing.placement_request import Slo, Split
from sim.machine import MachineModel
from sim.simulation import WorkerPool
from sim.unmixed_policy import unmixed
from wire.identity import Role

SOURCE = "LLMServe/DistServe, simdistserve's profile, as measured/distserve"
SLO = Slo(0.4, 0.04)
SHARE = 0.9
PROMPT, ANSWER = 512, 64
NUM_REQUESTS = 250
BAR = 0.15
PUBLISHED = 2.1
ENGINES = ("vllm", "distserve")
NUM_PREFILL, NUM_DECODE = 2, 1
POOL_TOKENS = 66_144
"""DistServe's max_num_tokens.csv, OPT-13B on one GPU."""


def results(measured: Path) -> list[Result]:
    """Raises DataMissing."""
    found = []
    for engine in ENGINES:
        profile = needed(measured / "distserve" / f"profiler-a100-80g.{engine}.json", SOURCE)
        found += _results(f"DistServe's toy, step times of {engine}", *machines(profile))
    return found


def _results(setting: str, prefill: MachineModel, decode: MachineModel) -> list[Result]:
    whole = pool(Role.PREFILL, 1, decode, chunk_tokens=PROMPT, policy=unmixed)
    split = [
        pool(Role.PREFILL, NUM_PREFILL, prefill, chunk_tokens=PROMPT),
        pool(Role.DECODE, NUM_DECODE, decode, chunk_tokens=PROMPT),
    ]
    both, apart = _most([whole], Split.NEVER), _most(split, Split.ALWAYS)
    numbers = (
        ("split ÷ both, requests/s per GPU", PUBLISHED, apart / both, BAR),
        ("both, requests/s", 1.6, both, None),
        ("split, requests/s per GPU", 3.3, apart, None),
    )
    return [
        Result(setting=setting, quantity=quantity, published=published, ours=ours, bar=bar)
        for quantity, published, ours, bar in numbers
    ]


def machines(profile: Path) -> tuple[MachineModel, MachineModel]:
    """A prefill GPU, and one that decodes or does both; the profile is in milliseconds, and its
    last prompt term for the square of a length."""
    found = json.loads(profile.read_text())["facebook/opt-13b"]["1"]
    (prompt_step, token, square), (step, context, sequence) = (
        found["prefill"],
        found["decoding_smallbs"],
    )
    common = (sequence / 1e3, context / 1e3, token / 1e3, 2 * square / 1e3)
    prefill, decode = (
        machine(
            fixed_ms / 1e3,
            *common,
            num_layers=40,
            num_kv_heads=40,
            pool_tokens=POOL_TOKENS,
            bytes_per_s=300e9,
        )
        for fixed_ms in (prompt_step, step)
    )
    return prefill, decode


def _lengths(draw: random.Random) -> tuple[int, int]:
    return PROMPT, ANSWER


def _most(pools: list[WorkerPool], split: Split) -> float:
    """Requests a second for each worker."""
    num_workers = sum(each.num_workers for each in pools)

    def in_time(per_s: float) -> bool:
        arrivals = poisson(NUM_REQUESTS, num_workers * per_s, _lengths)
        return goodput(serve(pools, arrivals, fixed(split), SLO)) >= SHARE

    return most_per_s(in_time, 1.0, 8.0)
