"""PrfaaS: H200s that read long prompts for H20s that do the rest (Moonshot, arXiv 2604.15039).

Published, of a hybrid model of 10^12 parameters in instances of eight GPUs, log-normal prompts
(μ 9.90, σ 1.00, 128 to 128K tokens): 96 H20 as 9 prefill and 3 decode instances serve 2.11
requests/s; 4 H200 prefill and 8 H20 decode instances 2.45 (1.16 ×); 4 H200 instances for prompts of
more than 19.4K tokens beside 3 prefill and 5 decode instances of H20 3.24 (1.54 ×).

Assumed: rates that the first two of these numbers give, and that the third is predicted from: all
nine H20 prefill instances are busy at 2.11 requests/s, and all four H200 ones at 2.45, so that
1.16 × is an input, and 1.54 × is not; a decode instance serves a tenth more than the 0.70
requests/s that 2.11 shows at least, because none is said to bind. A prompt's time is linear in its
length (three of four layers are linear, and the paper's own formula uses means); a step's fixed
part is 5 ms; answers have 512 tokens (not in the notes), each of which takes a decode instance as
long as the rate says. Chunks of 8,192. The router places prompts by its prices, without the
threshold of 19.4K tokens, which in the paper spares a link of 100 Gbit/s between two sites: here
the link is no limit. Every cluster is given a fifth more than the published rate, and what ends in
the second half of that time is counted.
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
from sim.simulation import WorkerPool
from wire.identity import Role

HOMOGENEOUS, NAIVE, PRFAAS = 2.11, 2.45, 3.24
MU, SIGMA, LEAST, MOST = 9.90, 1.00, 128, 128 * 1024
ANSWER, STEP_S, CHUNK = 512, 0.005, 8192
NUM_REQUESTS = 400
OVERLOAD = 1.2
DECODE_SPARE = 1.1
BAR = 0.15


def results(measured: Path) -> list[Result]:
    mean = _mean_length()
    h20, h200 = (_machine(rate, mean) for rate in (HOMOGENEOUS / 9, NAIVE / 4))

    def read(count: int, kind: MachineModel) -> WorkerPool:
        return pool(Role.PREFILL, count, kind, chunk_tokens=CHUNK)

    def write(count: int) -> WorkerPool:
        return pool(Role.DECODE, count, h20, chunk_tokens=CHUNK)

    base = _served([read(9, h20), write(3)], HOMOGENEOUS)
    naive = _served([read(4, h200), write(8)], NAIVE)
    prfaas = _served([read(4, h200), read(3, h20), write(5)], PRFAAS)
    numbers = (
        ("4 H200 + 3 + 5 H20, times 9 + 3 H20", PRFAAS / HOMOGENEOUS, prfaas / base, BAR),
        ("4 H200 + 8 H20, times 9 + 3 H20 (an input)", NAIVE / HOMOGENEOUS, naive / base, BAR),
        ("4 H200 + 3 + 5 H20, requests/s", PRFAAS, prfaas, BAR),
    )
    return [
        Result(setting="PrfaaS", quantity=quantity, published=published, ours=ours, bar=bar)
        for quantity, published, ours, bar in numbers
    ]


def _machine(prompts_per_s: float, mean: float) -> MachineModel:
    """An instance that reads so many prompts of the mean length a second."""
    seconds = 1 / prompts_per_s - math.ceil(mean / CHUNK) * STEP_S
    return machine(
        STEP_S,
        3 / (HOMOGENEOUS * ANSWER),
        0.0,
        seconds / mean,
        num_layers=16,
        pool_tokens=1 << 24,
        bytes_per_s=50e9,
    )


def _length(draw: random.Random) -> tuple[int, int]:
    while True:
        length = draw.lognormvariate(MU, SIGMA)
        if LEAST <= length <= MOST:
            return int(length), ANSWER


def _mean_length() -> float:
    draw = random.Random(0)
    return float(np.mean([_length(draw)[0] for _ in range(100_000)]))


def _served(pools: list[WorkerPool], published: float) -> float:
    """Requests a second that end in the second half of the time in which requests come."""
    arrivals = poisson(NUM_REQUESTS, OVERLOAD * published, _length)
    served = serve(pools, arrivals, fixed(Split.ALWAYS), lead_in_s=8.0)
    begin, end = served[NUM_REQUESTS // 2].arrival.at_s, served[-1].arrival.at_s
    ended = sum(begin <= each.last_s < end for each in served if each.last_s is not None)
    return ended / (end - begin)
