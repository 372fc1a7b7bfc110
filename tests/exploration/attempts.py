"""The sequences that are handed over: a few tokens each, the last block filled in part."""

from __future__ import annotations

from functools import cache

from kv_transfer.handoff.source import Final
from wire.handoff import Abort, Commit, Handoff, Offer, Quiesced
from wire.identity import AttemptId, WorkerRef
from wire.layout import KvLayout
from wire.sampling import SamplingParams

BLOCK_SIZE = 2
LAYOUT = KvLayout(num_layers=2, num_kv_heads=1, head_size=1, block_size=BLOCK_SIZE, dtype="int64")
SAMPLING = SamplingParams(max_tokens=3)
NOW = 0.0
"""Every event happens at this time, and deadlines last 0 s: each may pass at any moment."""


def tokens(attempt_id: int, num_blocks: int) -> tuple[int, ...]:
    return tuple(range(10 * attempt_id, 10 * attempt_id + num_blocks * BLOCK_SIZE - 1))


@cache
def attempt_number(attempt_id: AttemptId) -> int:
    return int(attempt_id.request_id)


@cache
def destination_ref(place: int, incarnation: int) -> WorkerRef:
    return WorkerRef(f"destination {place}", incarnation)


@cache
def place_of(ref: WorkerRef) -> int:
    return int(ref.worker_id.removeprefix("destination "))


@cache
def offer(attempt_id: int, num_blocks: int, source: int, destination: WorkerRef) -> Offer:
    prompt = tokens(attempt_id, num_blocks)
    return Offer(
        attempt_id=AttemptId(str(attempt_id)),
        source=WorkerRef("source", source),
        destination=destination,
        tokens=prompt,
        max_tokens=len(prompt) + 3,
        layout=LAYOUT,
        content="content",
        router_id="router",
        deadline_s=0.0,
    )


@cache
def final(attempt_id: int, num_blocks: int) -> Final:
    return Final((99,), len(tokens(attempt_id, num_blocks)), SAMPLING)


def for_source(message: Handoff) -> bool:
    if isinstance(message, Abort):
        return not message.by_source
    return not isinstance(message, Offer | Commit | Quiesced)
