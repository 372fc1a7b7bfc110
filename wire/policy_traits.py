"""How a worker's scheduling policy divides steps among prompts: what placement predicts with."""

from __future__ import annotations

import msgspec


class PolicyTraits(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy itself says of its rules. Counts are prompt tokens of one step."""

    chunk_tokens: int
    """Most that a step computes while no sequence decodes."""
    mixed_chunk_tokens: int
    """Most beside decoding sequences, where no target for the time per output token limits them."""
    min_chunk_tokens: int
    """Least beside decoding sequences, however small the target."""
    overtaking_ratio: int
    """A prompt with so many times fewer uncomputed tokens than the first one does not wait for it:
    such prompts share half of each step."""
