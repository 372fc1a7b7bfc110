"""PrfaaS: H200s that read long prompts for H20s that do the rest (Moonshot, arXiv 2604.15039).

Published, of a hybrid model of 10^12 parameters in instances of eight GPUs, log-normal prompts
(μ 9.90, σ 1.00, 128 to 128K tokens): 96 H20 as 9 prefill and 3 decode instances serve 2.11
requests/s; 4 H200 prefill and 8 H20 decode instances 2.45 (1.16 ×); 4 H200 instances for prompts of
more than 19.4K tokens beside 3 prefill and 5 decode instances of H20 3.24 (1.54 ×).

Assumed: rates that the first two of these numbers give, and that the third is predicted from: all
nine H20 prefill instances are busy at 2.11 requests/s, all four H200 ones at 2.45, and the three
decode instances at 2.11; so 1.16 × is an input, and 1.54 × is not. A prompt's time is
linear in its length (three of four layers are linear, and the paper's own formula uses means), a
step's fixed part 25 ms, answers 1,024 tokens (not in the notes; they only fix what the decode rate
means), chunks of 8,192. The router places prompts by its prices, without a threshold: the paper's
own is what should come out. Every cluster is given a fifth more than the published rate, and what
ends while requests come is counted.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np

from benchmarks.published.result import Result
from benchmarks.published.serving import fixed, machine, poisson, pool, serve
from router.placing.placement_request import Split
from sim.machine import MachineModel
from sim.request import RequestResult
from sim.simulation import WorkerPool
from wire.identity import Role

HOMOGENEOUS, NAIVE, PRFAAS = 2.11, 2.45, 3.24
MU, SIGMA, LEAST, MOST = 9.90, 1.00, 128, 128 * 1024
ANSWER, STEP_S, CHUNK = 1024, 0.025, 8192
NUM_REQUESTS = 1500
OVERLOAD = 1.2
BAR = 0.15
THRESHOLD = 19.4e3


def results(measured: Path) -> list[Result]:
    mean = _mean_length()
    h20, h200 = (_machine(rate, mean) for rate in (HOMOGENEOUS / 9, NAIVE / 4))
    decode_each = math.ceil(HOMOGENEOUS / 3 * ANSWER * STEP_S)
    write = lambda count: pool(  # noqa: E731
        Role.DECODE, count, h20, chunk_tokens=CHUNK, max_sequences=decode_each
    )
    read = lambda count, kind: pool(Role.PREFILL, count, kind, chunk_tokens=CHUNK)  # noqa: E731
    served = {
        rate: _served(pools, rate)
        for rate, pools in (
            (HOMOGENEOUS, [read(9, h20), write(3)]),
            (NAIVE, [read(4, h200), write(8)]),
            (PRFAAS, [read(4, h200), read(3, h20), write(5)]),
        )
    }
    base, naive, prfaas = (rate for rate, _ in served.values())
    lengths = _lengths_by_kind(served[PRFAAS][1], num_h200=4)
    numbers = (
        ("4 H200 + 3 + 5 H20, times 9 + 3 H20", PRFAAS / HOMOGENEOUS, prfaas / base, BAR),
        ("4 H200 + 8 H20, times 9 + 3 H20 (an input)", NAIVE / HOMOGENEOUS, naive / base, BAR),
        ("4 H200 + 3 + 5 H20, requests/s", PRFAAS, prfaas, BAR),
        ("prompts on H200, mean tokens", 44e3, lengths[0], None),
    )
    return [
        Result(setting="PrfaaS", quantity=quantity, published=published, ours=ours, bar=bar)
        for quantity, published, ours, bar in numbers
    ]


def _machine(prompts_per_s: float, mean: float) -> MachineModel:
    """An instance that reads so many prompts of the mean length a second."""
    seconds = 1 / prompts_per_s - math.ceil(mean / CHUNK) * STEP_S
    return machine(
        STEP_S, 0.0, 0.0, seconds / mean, num_layers=16, pool_tokens=1 << 24, bytes_per_s=50e9
    )


def _length(draw: random.Random) -> tuple[int, int]:
    while True:
        length = draw.lognormvariate(MU, SIGMA)
        if LEAST <= length <= MOST:
            return int(length), ANSWER


def _mean_length() -> float:
    draw = random.Random(0)
    return float(np.mean([_length(draw)[0] for _ in range(100_000)]))


def _served(pools: list[WorkerPool], published: float) -> tuple[float, list[RequestResult]]:
    """Requests a second that end in the second half of the time in which requests come."""
    arrivals = poisson(NUM_REQUESTS, OVERLOAD * published, _length)
    served = serve(pools, arrivals, fixed(Split.ALWAYS), lead_in_s=8.0)
    begin, end = served[NUM_REQUESTS // 2].arrival.at_s, served[-1].arrival.at_s
    ended = sum(begin <= each.last_s < end for each in served if each.last_s is not None)
    return ended / (end - begin), served


def _lengths_by_kind(served: list[RequestResult], num_h200: int) -> tuple[float, float]:
    """Mean prompt that H200s read, and that H20s read."""
    by_kind: dict[bool, list[int]] = {True: [], False: []}
    for each in served:
        if each.placement is not None:
            number = int(each.placement.first.worker_id.rsplit("-", 1)[1])
            by_kind[number < num_h200].append(each.arrival.num_prompt)
    return float(np.mean(by_kind[True])), float(np.mean(by_kind[False]))
