"""The sequences that are handed over: a few tokens each, the last block filled in part."""

from __future__ import annotations

from functools import cache

from kv_transfer.hashing import block_hashes
from kv_transfer.source import Final
from wire.handoff import Offer
from wire.identity import Leg, WorkerRef
from wire.layout import KvLayout
from wire.sampling import SamplingParams

BLOCK_SIZE = 2
LAYOUT = KvLayout(num_layers=1, num_kv_heads=1, head_size=1, block_size=BLOCK_SIZE, dtype="int64")
SAMPLING = SamplingParams(max_tokens=3)
DEADLINE_S = 1.0
LONG_AFTER = 1000.0
"""A time at which every deadline has passed; everything else happens at time 0."""


def tokens(leg: int, num_blocks: int) -> tuple[int, ...]:
    return tuple(range(10 * leg, 10 * leg + num_blocks * BLOCK_SIZE - 1))


def leg_number(leg: Leg) -> int:
    return int(leg.request_id)


@cache
def offer(leg: int, num_blocks: int, source: int, destination: int) -> Offer:
    prompt = tokens(leg, num_blocks)
    return Offer(
        leg=Leg(str(leg)),
        source=WorkerRef("source", source),
        destination=WorkerRef("destination", destination),
        block_hashes=tuple(block_hashes(prompt, BLOCK_SIZE)),
        num_tokens=len(prompt),
        max_tokens=len(prompt) + 3,
        fingerprint="f",
        router_id="router",
        deadline_s=DEADLINE_S,
    )


@cache
def final(leg: int, num_blocks: int) -> Final:
    prompt = tokens(leg, num_blocks)
    return Final((*prompt, 99), len(prompt), SAMPLING)
