"""Rules of a worker's scheduling policy that placement needs to predict its latency."""

from __future__ import annotations

import msgspec


class PolicyTraits(msgspec.Struct, frozen=True, kw_only=True):
    """How a policy splits prompts into chunks and orders them. Counts are prompt tokens of one
    step."""

    chunk_tokens: int
    """Maximum for a step without decoding sequences."""
    mixed_chunk_tokens: int
    """Maximum beside decoding sequences, unless a target for the time per output token lowers
    it."""
    min_chunk_tokens: int
    """Minimum beside decoding sequences, however low the target."""
    overtaking_ratio: int
    """Ratio of uncomputed tokens from which a shorter prompt overtakes the first one: such prompts
    share half of each step."""
