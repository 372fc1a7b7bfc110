"""Blocks reserved for a sequence whose KV cache another worker offers to send."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import msgspec

from wire.traits import RequestTraits


class OfferedSequence(msgspec.Struct, frozen=True):
    """A sequence whose KV cache another worker computes, and would send."""

    tokens: Seq[int]
    """The tokens whose keys and values the other worker would send."""
    traits: RequestTraits
    block_size: int
    """The other worker's, in tokens: none of its blocks is sent in part."""
    runs: bool = True
    """False when its blocks only go to the prefix cache."""


class Reservation(msgspec.Struct, frozen=True):
    """A sequence's blocks in order, `cached` before `blank`; each has one reference more."""

    cached: list[int]
    """Found in the prefix cache."""
    blank: list[int]
    """To be filled."""

    @property
    def blocks(self) -> list[int]:
        return self.cached + self.blank
