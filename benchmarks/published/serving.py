"""Clusters of published settings: a light lead-in, requests at a rate, and the largest rate in
time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from router.placing.placement_request import Slo, Split
from sim.machine import LAYOUT, MachineModel
from sim.request import RequestResult
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster, WorkerPool
from sim.traces import BLOCK_TOKENS, Arrival
from sim.worker import SETTINGS, MakePolicy, make_policy
from wire.identity import Role

NUM_LEAD_IN = 16
OWN_BLOCKS = 1 << 14
LEAD_IN_CONTENT = 1 << 30
SEED = 1
Lengths = Callable[[random.Random], tuple[int, int]]
"""Draws one request's prompt and answer, in tokens."""
SLO = Slo()


def pool(
    role: Role,
    num_workers: int,
    machine: MachineModel,
    *,
    chunk_tokens: int,
    tpot_s: float | None = None,
    policy: MakePolicy = make_policy,
    max_sequences: int = 256,
) -> WorkerPool:
    """Workers that pace prompts beside answers by `tpot_s`, or take `chunk_tokens` where None."""
    settings = msgspec.structs.replace(
        SETTINGS,
        chunk_tokens=chunk_tokens,
        mixed_chunk_tokens=chunk_tokens,
        tpot_target_s=None if tpot_s is None else 0.85 * tpot_s,
        max_sequences=max_sequences,
    )
    return WorkerPool(role, num_workers, machine, settings, policy)


def poisson(count: int, per_s: float, lengths: Lengths, seed: int = SEED) -> list[Arrival]:
    """Requests that share nothing; the same ones at every rate."""
    draw = random.Random(seed)
    arrivals, at_s = [], 0.0
    for number in range(count):
        at_s += draw.expovariate(1.0)
        num_prompt, num_new = lengths(draw)
        first = 1 + OWN_BLOCKS * number
        blocks = tuple(range(first, first - (-num_prompt // BLOCK_TOKENS)))
        arrivals.append(Arrival(at_s / per_s, num_prompt, num_new, blocks))
    return arrivals


def serve(
    pools: Sequence[WorkerPool],
    arrivals: Sequence[Arrival],
    router: RouterSettings,
    slo: Slo = SLO,
    lead_in_s: float = 2.0,
) -> list[RequestResult]:
    """Serve them behind a lead-in of their own lengths, `lead_in_s` between two, which teaches the
    router what steps take and is left out."""
    lead_in = [
        replace(
            each,
            at_s=number * lead_in_s,
            blocks=tuple(block + LEAD_IN_CONTENT for block in each.blocks),
            pieces=tuple((content + LEAD_IN_CONTENT, length) for content, length in each.pieces),
        )
        for number, each in enumerate(arrivals[:NUM_LEAD_IN])
    ]
    begin_s = (len(lead_in) + 5) * lead_in_s
    later = [each.later(begin_s) for each in arrivals]
    served = SimulatedCluster(pools, router).run([*lead_in, *later], lambda _: slo)
    failures = [each.failure for each in served if each.failure is not None]
    assert not failures, failures[0]
    return served[len(lead_in) :]


def fixed(split: Split) -> RouterSettings:
    """A router that refuses nobody, as those of the published settings."""
    return RouterSettings(max_queued=None, split=split)


def most_per_s(in_time: Callable[[float], bool], low: float, high: float) -> float:
    """The largest rate that is served in time, to 3 %; 0 where `low` is not."""
    if not in_time(low):
        return 0.0
    while high / low > 1.03:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if in_time(middle) else (low, middle)
    return low


def machine(
    step_s: float,
    sequence_s: float,
    context_token_s: float,
    prompt_token_s: float,
    prompt_pair_s: float = 0.0,
    *,
    num_layers: int = LAYOUT.num_layers,
    num_kv_heads: int = LAYOUT.num_kv_heads,
    pool_tokens: int = 1_000_000,
    bytes_per_s: float = 25e9,
) -> MachineModel:
    """A machine by its coefficients, without noise."""
    layout = msgspec.structs.replace(LAYOUT, num_layers=num_layers, num_kv_heads=num_kv_heads)
    return MachineModel(
        step_s=step_s,
        sequence_s=sequence_s,
        context_token_s=context_token_s,
        prompt_token_s=prompt_token_s,
        prompt_pair_s=prompt_pair_s,
        noise=0.0,
        pool_tokens=pool_tokens,
        layout=layout,
        bytes_per_s=bytes_per_s,
        latency_s=1e-4,
    )
