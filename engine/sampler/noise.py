"""Counter-based randomness: a number for each (seed, position, token), the same everywhere.

Nothing is carried from draw to draw, so that a sequence continues on another worker, after a
preemption or in another batch with the tokens that it would have had.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from engine.device.to_device import to_device

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def draw_key(seed: int, position: int) -> int:
    """64 bits that name the draw of the token at `position`."""
    digest = hashlib.blake2b(f"{seed}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def exponential_noise(keys: Seq[int], vocab_size: int, device: torch.device) -> Tensor:
    """Independent Exp(1) variables, float64 [rows, vocab_size], row i determined by keys[i].

    SplitMix64 (Steele, Lea, Flood 2014) with the token id as its counter; 52 bits of it make a
    uniform number strictly between 0 and 1.
    """
    starts = to_device([_signed(key) for key in keys], device)[:, None]
    counters = torch.arange(1, vocab_size + 1, dtype=torch.int64, device=device)
    bits = _mix(starts + counters * _signed(_GOLDEN))
    uniform = (_shift_right(bits, 12).double() + 0.5) * 2.0**-52
    return -uniform.log()


def _mix(state: Tensor) -> Tensor:
    state = (state ^ _shift_right(state, 30)) * _signed(_MIX_1)
    state = (state ^ _shift_right(state, 27)) * _signed(_MIX_2)
    return state ^ _shift_right(state, 31)


def _shift_right(state: Tensor, count: int) -> Tensor:
    """A logical shift; torch's own shift of int64 copies the sign downwards."""
    return (state >> count) & ((1 << (64 - count)) - 1)


def _signed(bits: int) -> int:
    """The int64 with the same 64 bits."""
    return bits - (1 << 64) if bits >> 63 else bits
