"""Applies grammars to a step's logits: tokens that are not allowed become minus infinity."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor

from engine.device.to_device import to_device
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
    few = [(row, allowed) for row, allowed in followed if not allowed.inverted]
    if few:
        places = _places(few, logits)
        kept = logits.view(-1)[places]
        logits.index_fill_(0, to_device([row for row, _ in few], logits.device), BANNED)
        logits.view(-1)[places] = kept
    many = [(row, allowed) for row, allowed in followed if allowed.inverted]
    if many:
        logits.view(-1)[_places(many, logits)] = BANNED
    for row, allowed in followed:
        if _bans_tokens(sequences[row]) and bool((logits[row] == BANNED).all()):
            logits[row, allowed.members()] = 0.0


def _places(rows: Seq[Row], logits: Tensor) -> Tensor:
    """Flat indices of the listed tokens in the logits, one row after the other."""
    vocab_size = logits.shape[1]
    places = np.concatenate([listed.ids + row * vocab_size for row, listed in rows])
    return torch.from_numpy(places).to(logits.device)


def _bans_tokens(sequence: Sequence) -> bool:
    """True when something else may have banned tokens of this row."""
    sampling = sequence.sampling
    return sampling.rules is not None or sequence.num_output < sampling.min_tokens
