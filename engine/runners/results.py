"""The outcomes of a launched step, one a slice."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import islice

from engine.device.device import LayerEvents
from engine.device.to_device import PendingHostCopy
from engine.runner import Collect, Draws, OnLayer, Outcome
from engine.sampler.sampler import PendingDraws


@dataclass(frozen=True, slots=True)
class NoneSampled:
    """A step none of whose slices reaches its sequence's last known token."""

    num_slices: int
    over: PendingHostCopy

    def __call__(self) -> list[Draws]:
        self.over.wait()
        return [()] * self.num_slices


@dataclass(frozen=True, slots=True)
class SomeSampled:
    """A step whose slices sample from so many rows each; `drawn` has the draws of all rows."""

    counts: Seq[int]
    drawn: PendingDraws

    def __call__(self) -> list[Draws]:
        sampled = self.drawn.collect()
        if min(self.counts) == max(self.counts) == 1:
            return [(each,) for each in sampled]
        remaining = iter(sampled)
        return [tuple(islice(remaining, count)) for count in self.counts]


@dataclass(frozen=True, slots=True)
class ByLayers:
    """A step whose layers are told one by one while it is collected."""

    layers: LayerEvents
    on_layer: OnLayer
    collect: Collect

    def __call__(self) -> Seq[Outcome]:
        self.layers.notify(self.on_layer)
        return self.collect()
