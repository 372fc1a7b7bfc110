"""Which workers serve a request: pure policy over what the router knows of its fleet.

Work is counted in prompt tokens still to compute for the first leg and in sequences for the
second. Both a worker's report and what this router has placed there tell of load: the report lags
but knows other routers' requests, so the greater of the two counts.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from kv_transfer import exchange
from wire.identity import Role, WorkerRef
from wire.layout import KvLayout


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """One worker as placement sees it, for one request."""

    ref: WorkerRef
    role: Role
    ready: bool
    content: str
    layout: KvLayout
    transport: str
    capacity_tokens: int
    """Longest sequence that it can hold."""
    num_hit_tokens: int = 0
    """Leading prompt tokens whose KV cache it probably has."""
    reported_tokens: int = 0
    reported_sequences: int = 0
    placed_tokens: int = 0
    """Prompt tokens that this router has sent there and that are not computed yet."""
    placed_sequences: int = 0

    @property
    def num_queued_tokens(self) -> int:
        return max(self.reported_tokens, self.placed_tokens)

    @property
    def num_sequences(self) -> int:
        return max(self.reported_sequences, self.placed_sequences)


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a request needs of its workers."""

    key: str
    """Names the request: ties are broken by it, so that equal workers share the requests."""
    num_prompt_tokens: int
    num_tokens: int
    """Prompt and answer together."""
    single_token: bool = False
    """One token is wanted: whoever prefills is done, nothing has to travel."""
    avoid: frozenset[WorkerRef] = frozenset()
    """Workers that have failed this request; taken only when there is no other choice."""


class Placement(msgspec.Struct, frozen=True):
    """`first` computes the prompt; without a destination it also writes the answer."""

    first: WorkerRef
    destination: WorkerRef | None


class RefusalReason(enum.Enum):
    NO_WORKERS = "no workers"
    TOO_LONG = "too long for every worker"


class Refusal(msgspec.Struct, frozen=True):
    reason: RefusalReason
    detail: str


def place(workers: Iterable[WorkerView], need: Need) -> Placement | Refusal:
    """The least loaded compatible pair, or a lone worker where there is no pair."""
    ready = [worker for worker in workers if worker.ready]
    fitting = [worker for worker in ready if worker.capacity_tokens >= need.num_tokens]
    if not fitting:
        return _refusal(ready, need)
    if need.single_token:
        return Placement(_best_lone(fitting, need, prefer=Role.PREFILL).ref, None)
    return _best_pair(fitting, need) or Placement(_best_lone(fitting, need).ref, None)


def _best_pair(workers: Sequence[WorkerView], need: Need) -> Placement | None:
    decoders = [worker for worker in workers if worker.role is Role.DECODE]
    partners = {
        worker.ref: [decoder for decoder in decoders if can_exchange(worker, decoder)]
        for worker in workers
        if worker.role is Role.PREFILL
    }
    firsts = [worker for worker in workers if partners.get(worker.ref)]
    if not firsts:
        return None

    def cost(first: WorkerView) -> tuple[bool, int, int, int]:
        # A pair is as much to be avoided as its better destination.
        avoided = first.ref in need.avoid or all(
            decoder.ref in need.avoid for decoder in partners[first.ref]
        )
        return (avoided, *_prefill_cost(first, need))

    first = min(firsts, key=cost)
    destination = min(
        partners[first.ref],
        key=lambda decoder: (decoder.ref in need.avoid, *_decode_cost(decoder, need)),
    )
    return Placement(first.ref, destination.ref)


def another_destination(
    workers: Iterable[WorkerView], need: Need, first: WorkerRef
) -> WorkerRef | None:
    """Who else could take a sequence that `first` has; nobody of `need.avoid`."""
    ready = {worker.ref: worker for worker in workers if worker.ready}
    holder = ready.get(first)
    if holder is None:
        return None
    others = [
        worker
        for worker in ready.values()
        if worker.role is Role.DECODE
        and worker.ref not in need.avoid | {first}
        and worker.capacity_tokens >= need.num_tokens
        and can_exchange(holder, worker)
    ]
    return min(others, key=lambda w: _decode_cost(w, need)).ref if others else None


def prefix_holder(
    workers: Iterable[WorkerView], first: WorkerRef, min_tokens: int
) -> WorkerRef | None:
    """Who has at least `min_tokens` more of the prompt cached than `first`, and can send them."""
    views = {worker.ref: worker for worker in workers}
    target = views.get(first)
    if target is None:
        return None
    others = [
        worker
        for worker in views.values()
        if worker.ref != first
        and worker.num_hit_tokens >= target.num_hit_tokens + min_tokens
        and can_exchange(worker, target)
    ]
    return max(others, key=lambda w: (w.num_hit_tokens, -w.num_sequences)).ref if others else None


def _best_lone(workers: Sequence[WorkerView], need: Need, prefer: Role | None = None) -> WorkerView:
    return min(
        workers,
        key=lambda worker: (
            worker.ref in need.avoid,
            prefer is not None and worker.role is not prefer,
            *_prefill_cost(worker, need),
        ),
    )


def can_exchange(one: WorkerView, other: WorkerView) -> bool:
    """True when KV blocks of one can travel to the other, converted if need be."""
    same = one.content == other.content and one.transport == other.transport
    return same and exchange.can_exchange(one.layout, other.layout)


def _prefill_cost(worker: WorkerView, need: Need) -> tuple[int, int, int]:
    """Tokens computed before this prompt is done, its cached prefix being free."""
    uncached = max(1, need.num_prompt_tokens - worker.num_hit_tokens)
    return worker.num_queued_tokens + uncached, worker.num_sequences, _tie(worker, need)


def _decode_cost(worker: WorkerView, need: Need) -> tuple[int, int, int]:
    """Sequences that share its steps; then, the less has to travel the better."""
    return worker.num_sequences, -worker.num_hit_tokens, _tie(worker, need)


def _tie(worker: WorkerView, need: Need) -> int:
    """A draw that depends on request and worker alone."""
    drawn = hashlib.blake2b(f"{need.key} {worker.ref}".encode(), digest_size=8)
    return int.from_bytes(drawn.digest(), "big")


def _refusal(ready: Sequence[WorkerView], need: Need) -> Refusal:
    if not ready:
        return Refusal(RefusalReason.NO_WORKERS, "no worker is ready")
    longest = max(worker.capacity_tokens for worker in ready)
    return Refusal(
        RefusalReason.TOO_LONG,
        f"{need.num_tokens} tokens are wanted, the largest worker holds {longest}",
    )
