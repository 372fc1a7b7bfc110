"""Several ranks in one process: a thread each, and real collectives between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed import HashStore

from engine.device.torch_collective import TorchCollective
from engine.runner import Collect, OnLayer, Outcome, Slice
from engine.runners.torch_loading import load_torch_runner
from engine.runners.torch_runner import TorchRunner

CPU = torch.device("cpu")


class Team:
    """Rank 0 as a runner that others follow."""

    def __init__(self, runners: Seq[TorchRunner]) -> None:
        self.lead, *self.followers = self.runners = runners
        self._threads = [ThreadPoolExecutor(1) for _ in self.followers]
        self._under_way: list[Future[None]] = []

    def run(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> list[Outcome]:
        return list(self.launch(slices, on_layer)())

    def launch(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> Collect:
        pieces = self.lead.step_slices(slices)
        self._order(lambda runner: runner.follow(pieces, by_layers=on_layer is not None))
        return self.lead.launch_step_slices(pieces, slices, on_layer)

    def copy_block(self, source: int, target: int) -> None:
        self._order(lambda runner: runner.copy_block(source, target))
        self.lead.copy_block(source, target)
        self._settle()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lead, name)

    def close(self) -> None:
        self._settle()
        for thread in self._threads:
            thread.shutdown()

    def _order(self, work: Callable[[TorchRunner], None]) -> None:
        """Each follower does it, after all that it was told before."""
        for thread, runner in zip(self._threads, self.followers, strict=True):
            self._under_way.append(thread.submit(work, runner))

    def _settle(self) -> None:
        for each in self._under_way:
            each.result()
        self._under_way.clear()


@contextmanager
def a_team(directory: Path, size: int, num_blocks: int = 128, **settings: Any) -> Iterator[Team]:
    """`size` ranks of a checkpoint, with a cache each."""
    collectives = connected(size)
    runners = [
        load_torch_runner(directory, device="cpu", block_size=4, collective=each, **settings)
        for each in collectives
    ]
    for runner in runners:
        runner.allocate(num_blocks)
    team = Team(runners)
    yield team
    team.close()


def connected(size: int) -> list[TorchCollective]:
    store, ranks = HashStore(), [TorchCollective(rank, size) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        list(pool.map(lambda rank: rank.connect(store, CPU), ranks))
    return ranks
