"""What rank 0 tells the others to do, one after the other, and what they answer.

Both ends are of one version, since rank 0 starts the others: nothing here needs to be versioned.
"""

from __future__ import annotations

import msgspec

from worker.config import WorkerConfig


class LoadModel(msgspec.Struct, frozen=True, tag=True):
    """Read your part of the model. Answered."""

    config: WorkerConfig


class Connect(msgspec.Struct, frozen=True, tag=True):
    """Meet the other ranks, which do the same now. Answered."""


class Fit(msgspec.Struct, frozen=True, tag=True):
    """How many blocks have room with you? Answered."""

    cache_bytes: int | None
    cache_fraction: float


class Allocate(msgspec.Struct, frozen=True, tag=True):
    """Make room for so many. Answered."""

    num_blocks: int


class PrepareSteps(msgspec.Struct, frozen=True, tag=True):
    """Prepare steps, and be ready for calls. Answered."""


class RunSlice(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """See engine.model.step_inputs.StepSlice. Its blocks are those of piece number `before` in the
    step before, if there is one, and `blocks` behind them."""

    start: int
    count: int
    tokens: list[int]
    source: int | None
    num_prompt: int
    num_sampled: int
    before: int | None
    blocks: list[int]
    num_scored: int = 0


class RunStep(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Compute your part of a step. Not answered: rank 0 meets you in it."""

    pieces: list[RunSlice]
    by_layers: bool


class CopyBlock(msgspec.Struct, frozen=True, tag=True):
    """Answered, when it is copied."""

    source: int
    target: int


class Leave(msgspec.Struct, frozen=True, tag=True):
    """End."""


Order = LoadModel | Connect | Fit | Allocate | PrepareSteps | RunStep | CopyBlock | Leave


class Done(msgspec.Struct, frozen=True, tag=True):
    number: int = 0


class Refused(msgspec.Struct, frozen=True, tag=True):
    """This rank cannot, and whoever set the worker up must hear why."""

    why: str


Answer = Done | Refused
