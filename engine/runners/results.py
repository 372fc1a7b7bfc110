"""What a launched step will have come to, one result a slice."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from engine.device.to_device import Arriving
from engine.runner import Sampled
from engine.sampler.sampler import Drawn


@dataclass(frozen=True, slots=True)
class NoneSampled:
    """A step of which nobody reached the end of what is known."""

    num_slices: int
    over: Arriving

    def __call__(self) -> list[Sampled | None]:
        self.over.wait()
        return [None] * self.num_slices


@dataclass(frozen=True, slots=True)
class SomeSampled:
    """A step in which some do."""

    samples: Seq[bool]
    drawn: Drawn

    def __call__(self) -> list[Sampled | None]:
        remaining = iter(self.drawn.collect())
        return [next(remaining) if samples else None for samples in self.samples]
