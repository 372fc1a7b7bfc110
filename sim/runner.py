"""A runner that computes nothing: its steps take virtual time."""

from __future__ import annotations

import random
from collections.abc import Sequence as Seq

from engine.runner import CacheRegion, Collect, Draws, OnLayer, Sampled, Slice
from engine.schedule.step_times import StepWork
from sim.clock import LocalTime
from sim.machine import MachineModel

NUM_LAYER_GROUPS = 4
"""How many times a step says how many of its layers are done. More would be slower to simulate."""
DRAWN = Sampled(0)


class VirtualRunner:
    """Implements `engine.runner.Runner`; draws token 0 for every sequence.

    `time` moves on by a step's duration, `seed` draws how far that is from the model's.
    """

    vocab_size = 1 << 31
    eos_token_ids: frozenset[int] = frozenset()
    model_hash = checksum_kind = "simulated"
    runs_ahead = False

    def __init__(self, machine: MachineModel, time: LocalTime, seed: int) -> None:
        self.layout = machine.layout
        self.max_model_len = machine.max_model_len
        self.busy_s = 0.0
        """Duration of all steps so far."""
        self._machine = machine
        self._time = time
        self._draw = random.Random(seed)
        self._put_back: list[float] = []

    def draw_noise(self) -> float:
        """The factor by which the next step differs from the model's duration."""
        if self._put_back:
            return self._put_back.pop()
        return self._draw.lognormvariate(0.0, self._machine.noise)

    def put_back(self, noises: Seq[float]) -> None:
        """The steps for which these were drawn, in this order, will not be: draw them again."""
        self._put_back += reversed(noises)

    def seconds(self, work: StepWork, noise: float) -> float:
        """Duration of a step."""
        return self._machine.seconds(work) * noise

    def run(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> list[Draws]:
        seconds = self.seconds(StepWork.of(slices), self.draw_noise())
        begin_s = self._time.now
        if on_layer is not None:
            self._tell_layers(begin_s, seconds, on_layer)
        self._time.now = begin_s + seconds
        self.busy_s += seconds
        return [(DRAWN,) * piece.num_sampled for piece in slices]

    def _tell_layers(self, begin_s: float, seconds: float, on_layer: OnLayer) -> None:
        num_layers = self.layout.num_layers
        for part in range(1, NUM_LAYER_GROUPS):
            self._time.now = begin_s + seconds * part / NUM_LAYER_GROUPS
            on_layer(num_layers * part // NUM_LAYER_GROUPS)

    def launch(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> Collect:
        outcomes = self.run(slices, on_layer)
        return lambda: outcomes

    def fit_num_blocks(self, cache_bytes: int | None, cache_fraction: float) -> int:
        return self._machine.num_blocks

    def allocate(self, num_blocks: int) -> CacheRegion:
        raise NotImplementedError("the simulation has no cache")

    def copy_block(self, source: int, target: int) -> None:
        return

    def checksum(self, blocks: Seq[int], first: int) -> int:
        return 0

    def mark(self) -> None:
        """Steps compute as they are collected."""

    def close(self) -> None:
        return
