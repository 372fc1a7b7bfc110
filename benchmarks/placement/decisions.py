"""Duration of one placement decision: a thousand workers, prompts of 128k tokens, with given
hashes."""

from __future__ import annotations

import random
import time

import msgspec
import numpy as np

from decode_worker.scheduler import DecodePolicy
from prefill_worker.scheduler import PrefillPolicy
from router.placing.ledger import Ledger, PromptHashes
from router.placing.placement_request import Placement, PlacementRequest, Slo
from wire.identity import AttemptId, ProcessRef, Role, WorkerRef
from wire.layout import KvLayout
from wire.messages import WorkerCard
from wire.reports import CacheEvents, Report, StepCosts, WorkerState

LAYOUT = KvLayout(num_layers=32, num_kv_heads=8, head_size=128, block_size=16, dtype="float16")
NUM_TOKENS = 1 << 17
NUM_PROMPTS = 16
HOLDERS = 12
"""Number of workers that have a part of a prompt cached, each of another length."""


class Decisions(msgspec.Struct, frozen=True):
    """CPU time of one decision, in microseconds."""

    num_workers: int
    p50_us: float
    p99_us: float
    hash_us: float
    """Hashing a prompt, which happens once before."""


def measure(num_workers: int = 1000, rounds: int = 400) -> Decisions:
    draw = random.Random(7)
    ledger = _ledger(num_workers, draw)
    prompts = [[n] * NUM_TOKENS for n in range(NUM_PROMPTS)]
    hashes = [PromptHashes() for _ in prompts]
    begun = time.perf_counter()
    for tokens, each in zip(prompts, hashes, strict=True):
        each.of(tokens, LAYOUT.block_size)
    hash_us = (time.perf_counter() - begun) / NUM_PROMPTS * 1e6
    numbers = dict.fromkeys(range(num_workers), 0)
    for tokens, each in zip(prompts, hashes, strict=True):
        for worker in draw.sample(range(num_workers), min(HOLDERS, num_workers)):
            numbers[worker] += 1
            depth = draw.randrange(1, NUM_TOKENS // LAYOUT.block_size)
            stored = tuple(each.of(tokens, LAYOUT.block_size)[:depth])
            ledger.cached(_ref(worker), CacheEvents(number=numbers[worker], stored=stored))
    taken = []
    for number in range(rounds):
        prompt = number % NUM_PROMPTS
        begun = time.thread_time()
        _decide(ledger, prompts[prompt], hashes[prompt], number)
        taken.append((time.thread_time() - begun) * 1e6)
    p50_us, p99_us = np.percentile(taken[20:], [50, 99])
    return Decisions(num_workers, float(p50_us), float(p99_us), hash_us)


def _decide(ledger: Ledger, tokens: list[int], hashes: PromptHashes, number: int) -> None:
    """All of the router's work for a decision: cache hits, choice, and ledger entries."""
    need = PlacementRequest(
        key=f"request {number}",
        num_prompt_tokens=len(tokens),
        num_tokens=len(tokens) + 1000,
        slo=Slo(5.0, 0.03),
    )
    hits = ledger.hits(tokens, hashes)
    found = ledger.place(need, hits, float(number))
    assert isinstance(found, Placement)
    attempt_id = AttemptId(need.key)
    ledger.placed(attempt_id, found, need, hits, float(number))
    ledger.submitted(found.first, attempt_id)


def _ledger(num_workers: int, draw: random.Random) -> Ledger:
    ledger = Ledger("router", 4_000_000)
    costs = StepCosts(
        step_s=6e-3,
        sequence_s=3e-5,
        context_token_s=4e-8,
        prompt_token_s=3e-5,
        prompt_pair_s=2e-9,
    )
    policies = {Role.PREFILL: PrefillPolicy(), Role.DECODE: DecodePolicy()}
    for worker in range(num_workers):
        role = Role.PREFILL if worker % 2 else Role.DECODE
        card = WorkerCard(
            ref=_ref(worker),
            role=role,
            address="",
            model="m",
            model_hash="m",
            layout=LAYOUT,
            content="c",
            num_blocks=30_000,
            max_model_len=200_000,
            policies={each: policy.traits for each, policy in policies.items()},
            transport="nixl",
            process=ProcessRef("host", 1),
        )
        ledger.add(card)
        ledger.cached(card.ref, CacheEvents(number=0, snapshot=True))
        ledger.set_ready(card.ref, True)
        report = Report(
            state=WorkerState.READY,
            num_running=10,
            num_waiting=0,
            waiting_tokens=draw.randrange(5000),
            free_blocks=20_000,
            num_blocks=30_000,
            num_decoding=draw.randrange(30),
            context_tokens=draw.randrange(90_000),
            costs=costs,
        )
        ledger.on_report(card.ref, report)
    return ledger


def _ref(worker: int) -> WorkerRef:
    return WorkerRef(f"worker-{worker}", 1)
