"""The overhead of a step: scheduling, inputs and sampling around a model that computes little."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.checkpoints import Shape, write
from benchmarks.engine.ours import Cost, Ours

ONE_LAYER = Shape(64, 1, 4, 4, 64, 256, tied=True)


def overhead(batch: int, rounds: int) -> Cost:
    """A decode step of a model with one layer, which with its head is too small to matter."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as directory:
        write(ONE_LAYER, Path(directory))
        ours = Ours(Path(directory), "float32", threads=1)
    return ours.decode(batch, 64, rounds)
