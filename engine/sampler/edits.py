"""Changes at single tokens of a batch's logits: one copy to the device, a few operations there."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.device.to_device import to_device_together

BANNED = float("-inf")
Change = Callable[..., None]
"""One of the functions below, which changes logits [rows, vocab_size] at flat indices."""


def scale(logits: Tensor, places: Tensor, penalties: Tensor) -> None:
    """Divide positive logits, and multiply negative ones."""
    flat = logits.view(-1)
    found = flat.index_select(0, places)
    changed = torch.where(found < 0, found * penalties, found / penalties)
    flat.index_copy_(0, places, changed)


def subtract(logits: Tensor, places: Tensor, losses: Tensor) -> None:
    flat = logits.view(-1)
    flat.index_copy_(0, places, flat.index_select(0, places) - losses)


def add(logits: Tensor, places: Tensor, gains: Tensor) -> None:
    flat = logits.view(-1)
    flat.index_copy_(0, places, flat.index_select(0, places) + gains)


def restrict(logits: Tensor, places: Tensor, rows: Tensor) -> None:
    """Ban everything in these rows but what is at these places."""
    flat = logits.view(-1)
    kept = flat.index_select(0, places)
    logits.index_fill_(0, rows, BANNED)
    flat.index_copy_(0, places, kept)


def ban(logits: Tensor, places: Tensor) -> None:
    logits.view(-1).index_fill_(0, places, BANNED)


ORDER: tuple[Change, ...] = (scale, subtract, add, restrict, ban)


class LogitEdits:
    """Changes of a batch's rows, made kind by kind, in ORDER."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._changes: dict[Change, list[tuple[NDArray[Any], ...]]] = {}

    def plan(
        self, change: Change, row: int, ids: Seq[int] | NDArray[np.int64], *values: NDArray[Any]
    ) -> None:
        """Change a row's logits of distinct tokens; `values` are what the change takes."""
        places = np.array(ids, np.int64)
        places += row * self._vocab_size
        self._changes.setdefault(change, []).append((places, *values))

    def apply(self, logits: Tensor) -> None:
        """Change contiguous `logits` [rows, vocab_size] in place."""
        changes = [change for change in ORDER if change in self._changes]
        columns = [
            np.concatenate(parts) if len(parts) > 1 else parts[0]
            for change in changes
            for parts in zip(*self._changes[change], strict=True)
        ]
        sent = iter(to_device_together(columns, logits.device))
        for change in changes:
            change(logits, *islice(sent, len(self._changes[change][0])))
