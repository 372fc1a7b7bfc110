"""Orders that rank 0 gives the other ranks, one after the other, and their answers.

Both ends are of one version, since rank 0 starts the others: the messages have no version.
"""

from __future__ import annotations

import msgspec

from worker.fitted_config import FittedConfig


class LoadModel(msgspec.Struct, frozen=True, tag=True):
    """Read your part of the model. Answered."""

    config: FittedConfig


class ConnectRanks(msgspec.Struct, frozen=True, tag=True):
    """Connect to the other ranks, which do the same now. Answered."""


class FitBlocks(msgspec.Struct, frozen=True, tag=True):
    """Say how many blocks fit into your memory. Answered."""

    cache_bytes: int | None
    cache_fraction: float


class AllocateBlocks(msgspec.Struct, frozen=True, tag=True):
    """Allocate the KV cache. Answered."""

    num_blocks: int


class PrepareSteps(msgspec.Struct, frozen=True, tag=True):
    """Record CUDA graphs, and be ready for calls. Answered."""


class RunSlice(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """See engine.model.step_inputs.StepSlice. Its blocks are those of slice number `before` in the
    previous step, unless that is None, followed by `blocks`."""

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
    """Compute your part of a step. Not answered: the step's collectives synchronize the ranks."""

    slices: list[RunSlice]
    by_layers: bool


class CopyBlock(msgspec.Struct, frozen=True, tag=True):
    """Copy one block of the cache. Answered when it is copied."""

    source: int
    target: int


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """End the process. Not answered."""


Order = (
    LoadModel
    | ConnectRanks
    | FitBlocks
    | AllocateBlocks
    | PrepareSteps
    | RunStep
    | CopyBlock
    | Shutdown
)


class Done(msgspec.Struct, frozen=True, tag=True):
    """An order was carried out; `number` is the result of FitBlocks."""

    number: int = 0


class Refused(msgspec.Struct, frozen=True, tag=True):
    """An order cannot be carried out, for a reason that the worker's operator must be told."""

    why: str


Answer = Done | Refused
