"""Applies grammars to a step's logits: tokens that are not allowed become minus infinity."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.device.to_device import to_device_together
from engine.sequence import Sequence
from grammar.token_set import TokenSet

BANNED = float("-inf")
Row = tuple[int, TokenSet]
"""A row of the batch, and its allowed next tokens."""


def apply_masks(logits: Tensor, sequences: Seq[Sequence]) -> None:
    """Set what a row's grammar does not allow to minus infinity, in `logits` [rows, vocab_size].

    Where all that is allowed was banned already, the grammar wins: those are equally likely then.
    """
    followed = [(row, s.grammar.allowed) for row, s in enumerate(sequences) if s.grammar]
    if not followed:
        return
    _mask(logits, followed)
    contested = [(row, allowed) for row, allowed in followed if _bans_tokens(sequences[row])]
    if contested:
        _revive(logits, contested)


def _mask(logits: Tensor, followed: Seq[Row]) -> None:
    few = [(row, allowed) for row, allowed in followed if not allowed.inverted]
    many = [(row, allowed) for row, allowed in followed if allowed.inverted]
    vocab_size, flat = logits.shape[1], logits.view(-1)
    arrays = [
        np.array([row for row, _ in few]),
        _places(few, vocab_size),
        _places(many, vocab_size),
    ]
    rows, kept_places, banned_places = to_device_together(arrays, logits.device)
    if few:
        kept = flat.index_select(0, kept_places)
        logits.index_fill_(0, rows, BANNED)
        flat.index_copy_(0, kept_places, kept)
    if many:
        flat.index_fill_(0, banned_places, BANNED)


def _revive(logits: Tensor, contested: Seq[Row]) -> None:
    """Make all allowed tokens equally likely in rows where nothing is left."""
    (rows,) = to_device_together([np.array([row for row, _ in contested])], logits.device)
    left = logits.index_select(0, rows)
    dead = left.amax(-1, keepdim=True) == BANNED
    if logits.device.type == "cpu" and not dead.any():
        return  # another device would have to be waited for
    logits.index_copy_(0, rows, left.masked_fill_(dead, 0.0))
    _mask(logits, contested)


def _places(rows: Seq[Row], vocab_size: int) -> NDArray[np.int64]:
    """Flat indices of the listed tokens in the logits, one row after the other."""
    places = [listed.ids + row * vocab_size for row, listed in rows]
    return np.concatenate(places) if places else np.zeros(0, np.int64)


def _bans_tokens(sequence: Sequence) -> bool:
    """True when something else may have banned tokens of this row."""
    sampling = sequence.sampling
    return sampling.rules is not None or sequence.num_output < sampling.min_tokens
