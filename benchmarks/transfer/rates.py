"""Measures the rate of every path, over block sizes and totals, beside a memory copy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.measure import Times, alternate, cpu_s
from benchmarks.pool import a_pool
from benchmarks.transfer.paths import Path, all_paths

KIB, MIB = 1 << 10, 1 << 20
POOL_BYTES = 128 * MIB
TOTALS = (64 * KIB, MIB, 16 * MIB, 128 * MIB)
BLOCK_SIZES = (4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB)
ROUND_BYTES = 256 * MIB
"""Bytes written of each case: small totals are written more often."""


@dataclass(frozen=True, slots=True)
class Case:
    total_bytes: int
    block_bytes: int
    scattered: bool

    def places(self) -> tuple[list[int], list[int]]:
        """Blocks of ours and of the peer; anywhere in the pools if scattered."""
        num_blocks = self.total_bytes // self.block_bytes
        if not self.scattered:
            return list(range(num_blocks)), list(range(num_blocks))
        draw = np.random.default_rng(0)
        everywhere = POOL_BYTES // self.block_bytes
        blocks, remote_blocks = (
            draw.permutation(everywhere)[:num_blocks].tolist() for _ in range(2)
        )
        return blocks, remote_blocks


@dataclass(frozen=True, slots=True)
class Rates:
    """The results of a case; `paths` by name."""

    case: Case
    copy: Times
    paths: dict[str, Times]

    @property
    def copy_gb_s(self) -> float:
        return self.case.total_bytes / self.copy.median_s / 1e9

    def gb_s(self, path: str) -> float:
        return self.case.total_bytes / self.paths[path].median_s / 1e9

    def of_copy(self, path: str) -> float:
        return self.paths[path].speed_beside(self.copy)


@dataclass(frozen=True, slots=True)
class CpuCost:
    """CPU seconds that both processes together take for a gigabyte."""

    path: str
    block_bytes: int
    s_per_gb: float


def measure(
    rounds: int, totals: tuple[int, ...], ucx_env: dict[str, str]
) -> tuple[list[Rates], list[CpuCost]]:
    rates, costs = [], []
    for block_bytes in BLOCK_SIZES:
        cases = [
            Case(total, block_bytes, scattered)
            for scattered in (False, True)
            for total in totals
            if total >= block_bytes
        ]
        with all_paths(POOL_BYTES, block_bytes, ucx_env) as paths:
            rates += list(_rates(paths, cases, rounds))
            costs += [_cpu_cost(path, cases[-1], rounds) for path in paths]
    return rates, costs


def _rates(paths: list[Path], cases: list[Case], rounds: int) -> Iterator[Rates]:
    source, target = a_pool(POOL_BYTES)[0], a_pool(POOL_BYTES)[0]
    for case in cases:
        blocks, remote_blocks = case.places()
        size = case.total_bytes

        def copy(size: int = size) -> None:
            np.copyto(target[:size], source[:size])

        writes = [lambda path=path: path.write(blocks, remote_blocks) for path in paths]  # noqa: B023
        num_rounds = max(rounds, min(20 * rounds, ROUND_BYTES // size))
        times = alternate(copy, *writes, rounds=num_rounds)
        by_name = {path.name: spent for path, spent in zip(paths, times[1:], strict=True)}
        yield Rates(case, times[0], by_name)


def _cpu_cost(path: Path, case: Case, rounds: int) -> CpuCost:
    blocks, remote_blocks = case.places()
    before = cpu_s(os.getpid()) + cpu_s(path.pid)
    for _ in range(rounds):
        path.write(blocks, remote_blocks)
    spent = cpu_s(os.getpid()) + cpu_s(path.pid) - before
    return CpuCost(path.name, case.block_bytes, spent / (rounds * case.total_bytes / 1e9))
