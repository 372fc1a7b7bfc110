"""The runner of rank 0: computes its own part of each step, and orders the others to do theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Self

from engine.device.torch_collective import TorchCollective, open_store
from engine.model.config import read_config
from engine.model.model_part import model_part
from engine.runner import CacheRegion, Collect, OnLayer, Outcome, Slice
from engine.runners.torch_runner import TorchRunner
from worker.fitted_config import FittedConfig
from worker.rank.load_runner import load_runner, rank_device
from worker.ranks.errors import RankLost
from worker.ranks.orders import (
    AllocateBlocks,
    ConnectRanks,
    CopyBlock,
    FitBlocks,
    LoadModel,
    PrepareSteps,
)
from worker.ranks.step_orders import StepWriter
from worker.ranks.team import Team

LOST_TIMEOUT_S = 3.0
"""How long after a failed collective it may take to learn that a rank was lost."""


class LeadRunner:
    """Implements engine.runner.Runner; what it says of rank 0 holds for all ranks.

    Each layer ends with an all-reduce, which a rank enters when it has written its keys and values
    of that layer. So when a layer, or a step, is over on rank 0, no rank uses its blocks any more.
    """

    def __init__(self, own: TorchRunner, team: Team) -> None:
        self.team = team
        self.layout = own.layout
        self.vocab_size = own.vocab_size
        self.max_model_len = own.max_model_len
        self.eos_token_ids = own.eos_token_ids
        self.model_hash = own.model_hash
        self.checksum_kind = own.checksum_kind
        self.runs_ahead = own.runs_ahead
        self.checksum = own.checksum
        self.mark = own.mark
        self._own = own
        self._writer = StepWriter()

    @classmethod
    def start(
        cls,
        config: FittedConfig,
        progress: Callable[[int, int], None],
        on_lost: Callable[[RankLost], None],
    ) -> Self:
        """All ranks load their parts and connect. `progress` is rank 0's.

        Raises ConfigError, CheckpointError, RankRefused with the errors of others, and RankLost;
        `on_lost` is called when a rank ends by itself or is silent, now or later.
        """
        size = config.tensor_parallel_size
        rank_device(config.device, 0, size)
        model_part(read_config(Path(config.model)), 0, size)  # raises before a process is started
        team = Team(size, config.rank_silence_s, on_lost)
        try:
            return cls(_load(config, progress, team), team)
        except BaseException:
            team.close(timeout_s=0)  # a rank that loads the model takes no orders
            raise

    def fit_num_blocks(self, cache_bytes: int | None, cache_fraction: float) -> int:
        """What fits into the rank with the least memory; `cache_bytes` is for each rank. On a CPU
        the ranks share the memory of which a fraction is taken."""
        if self._own.device.type == "cpu":
            cache_fraction /= self.team.size
        self.team.order(FitBlocks(cache_bytes, cache_fraction))
        with self._together():
            own = self._own.fit_num_blocks(cache_bytes, cache_fraction)
        return min(own, *(answer.number for answer in self.team.answers()))

    def allocate(self, num_blocks: int) -> CacheRegion:
        """Rank 0's region. CUDA graphs are recorded when all ranks have allocated theirs."""
        self.team.order(AllocateBlocks(num_blocks))
        region = self._own.allocate_only(num_blocks)
        self.team.answers()
        self.team.order(PrepareSteps())
        with self._together():
            self._own.capture_own_steps()
        self.team.answers()
        self.team.ready()
        return region

    def copy_block(self, source: int, target: int) -> None:
        self.team.order(CopyBlock(source, target))
        self._own.copy_block(source, target)
        self.team.answers()

    def run(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> Seq[Outcome]:
        return list(self.launch(slices, on_layer)())

    def launch(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> Collect:
        if not slices:
            return list
        step_slices = self._own.step_slices(slices)
        by_layers = on_layer is not None
        self.team.order(self._writer.write(step_slices, slices, by_layers=by_layers))
        with self._together():
            collect = self._own.launch_step_slices(step_slices, slices, on_layer)

        def collect_together() -> Seq[Outcome]:
            with self._together():
                return collect()

        return collect_together

    def close(self) -> None:
        self.team.close()

    def _together(self) -> AbstractContextManager[None]:
        return together(self.team)


@contextmanager
def together(team: Team) -> Iterator[None]:
    """Raises RankLost in place of a collective's error, if a rank was lost."""
    try:
        yield
    except RuntimeError as error:
        lost = team.await_lost(LOST_TIMEOUT_S)
        if lost is None:
            raise
        raise lost from error


def _load(config: FittedConfig, progress: Callable[[int, int], None], team: Team) -> TorchRunner:
    collective = TorchCollective(0, team.size)
    team.order(LoadModel(config))
    own = load_runner(config, progress, collective)
    team.answers()
    team.order(ConnectRanks())
    with together(team):
        collective.connect(open_store(team.store_file, team.size), own.device)
    team.answers()
    return own
