"""Measures writes between equal and unequal KV layouts, direct and through staging.

Staging here is what a source does before it writes: blocks are read, turned, and copied into the
registered memory, by one thread. Checksums are not part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import msgspec
import numpy as np
import torch

from benchmarks.measure import Times, alternate
from benchmarks.pool import PeerPool, a_pool, connected, finish
from kv_transfer.layout.head_routes import needs_conversion
from kv_transfer.layout.region import CacheRegion
from kv_transfer.layout.reshard import plan, staging_layout
from kv_transfer.layout.spans import Offsets
from kv_transfer.layout.staging import as_tensor, fill
from kv_transfer.transports.nixl.nixl_transport import NixlTransport
from wire.layout import KvLayout

POOL_BYTES = 64 << 20
NUM_BYTES = 16 << 20
"""Bytes of the tokens that are written in each case, as the source holds them, with all heads."""
MODEL = KvLayout(num_layers=16, num_kv_heads=8, head_size=128, block_size=16, dtype="bfloat16")
TP_BLOCK_SIZES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    source: KvLayout
    destination: KvLayout

    @property
    def num_tokens(self) -> int:
        return NUM_BYTES // self.source.token_bytes

    @property
    def staging(self) -> KvLayout:
        return staging_layout(self.destination, self.destination.heads)


@dataclass(frozen=True, slots=True)
class Result:
    """Times of direct and of staged writes; `copy` is the time of staging alone."""

    case: Case
    num_pieces: int
    piece_bytes: int
    direct: Times | None
    """None where values are converted, which needs staging."""
    copy: Times
    staged: Times

    @property
    def num_bytes(self) -> int:
        return self.num_pieces * self.piece_bytes

    @property
    def faster(self) -> str:
        if self.direct is None or self.staged.median_s < self.direct.median_s:
            return "staged"
        return "direct"


@dataclass(frozen=True, slots=True)
class LinkCost:
    descriptor_s: float
    """Seconds for each further descriptor of a transfer."""
    link_bytes_per_s: float
    copy_bytes_per_s: float
    """Bytes per second of copies into staging."""

    @property
    def threshold_bytes(self) -> float:
        """The size at which pieces cost as much written one by one as copied to staging first."""
        return self.descriptor_s * self.copy_bytes_per_s


def cases() -> list[Case]:
    wide = msgspec.structs.replace(MODEL, block_size=64)
    float32 = msgspec.structs.replace(MODEL, dtype="float32")
    return [
        Case("equal", MODEL, MODEL),
        Case("blocks 16 to 64", MODEL, wide),
        Case("blocks 64 to 16", wide, MODEL),
        Case("bf16 to fp32", MODEL, float32),
        *map(_half_the_heads, TP_BLOCK_SIZES),
    ]


def _half_the_heads(block_size: int) -> Case:
    source = msgspec.structs.replace(MODEL, block_size=block_size)
    half = MODEL.num_kv_heads // 2
    destination = msgspec.structs.replace(
        source, num_kv_heads=half, total_kv_heads=MODEL.num_kv_heads
    )
    return Case(f"TP 1 to 2, {block_size}", source, destination)


def measure(rounds: int, ucx_env: dict[str, str]) -> Iterator[Result]:
    torch.set_num_threads(1)
    (_, pool), (_, staging) = a_pool(POOL_BYTES), a_pool(POOL_BYTES)
    with (
        closing(PeerPool(POOL_BYTES, 1, ucx_env=ucx_env)) as peer,
        connected(pool, 1, peer, ucx_env, staging) as link,
    ):
        for case in cases():
            yield Bench(case, link, pool, staging).measure(rounds)


class Bench:
    """One case: scattered blocks of our pool, scattered blocks of the peer's."""

    def __init__(
        self, case: Case, link: NixlTransport, pool: CacheRegion, staging: CacheRegion
    ) -> None:
        self._case = case
        self._link = link
        self._pool = as_tensor(pool)
        self._staging = as_tensor(staging)
        draw = np.random.default_rng(0)
        self._blocks = _scattered(draw, case.source, case.num_tokens)
        self._remote_blocks = _scattered(draw, case.destination, case.num_tokens)

    def measure(self, rounds: int) -> Result:
        case = self._case
        if needs_conversion(case.source, case.destination):
            copy, staged = alternate(self._copy, self._staged, rounds=rounds)
            spans, direct = self._staged_spans(), None
        else:
            copy, staged, direct = alternate(self._copy, self._staged, self._direct, rounds=rounds)
            spans = self._direct_spans()
        return Result(case, len(spans), int(spans[:, 2].mean()), direct, copy, staged)

    def _direct(self) -> None:
        finish(self._link.write_spans("peer", self._direct_spans(), staged=False))

    def _staged(self) -> None:
        self._copy()
        finish(self._link.write_spans("peer", self._staged_spans(), staged=True))

    def _copy(self) -> None:
        case = self._case
        with torch.inference_mode():
            num_blocks = case.staging.num_blocks(case.num_tokens)
            target = self._staging[: num_blocks * case.staging.block_bytes]
            fill(target, self._pool, case.source, case.staging, self._blocks, case.num_tokens)

    def _direct_spans(self) -> Offsets:
        case = self._case
        found = plan(case.source, case.destination, case.destination.heads)
        return found.spans(self._blocks, self._remote_blocks, case.num_tokens)

    def _staged_spans(self) -> Offsets:
        case = self._case
        found = plan(case.staging, case.destination, case.destination.heads)
        return found.spans(range(len(self._remote_blocks)), self._remote_blocks, case.num_tokens)


def _scattered(draw: np.random.Generator, layout: KvLayout, num_tokens: int) -> list[int]:
    everywhere = draw.permutation(POOL_BYTES // layout.block_bytes)
    blocks: list[int] = everywhere[: layout.num_blocks(num_tokens)].tolist()
    return blocks


def fitted(results: list[Result]) -> LinkCost:
    """The costs of a link, from the finest and the coarsest pieces of the same bytes."""
    sliced = [found for found in results if found.case.name.startswith("TP") and found.direct]
    fine, coarse = sliced[0], sliced[-1]
    assert fine.direct is not None
    assert coarse.direct is not None
    more_s = fine.direct.median_s - coarse.direct.median_s
    descriptor_s = max(0.0, more_s / (fine.num_pieces - coarse.num_pieces))
    link_s = coarse.direct.median_s - coarse.num_pieces * descriptor_s
    middle = sliced[len(sliced) // 2]
    return LinkCost(
        descriptor_s=descriptor_s,
        link_bytes_per_s=coarse.num_bytes / max(link_s, 1e-9),
        copy_bytes_per_s=middle.num_bytes / middle.copy.median_s,
    )
