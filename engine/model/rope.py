"""Rotary position embeddings (RoPE), with scaling.

The numbers agree with Hugging Face transformers: frequencies in float32, on the same formulas.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.model.rope_config import (
    DefaultRope,
    DynamicRope,
    LinearRope,
    Llama3Rope,
    RopeConfig,
    YarnRope,
)


class Rope:
    """Cosines and sines for the tokens of a step.

    Dynamic scaling makes frequencies depend on a sequence's length, not on the position alone.
    Transformers takes the length that each forward pass reaches: for the prompt that is the
    prompt's length, for each token after it the length so far; keys stay as they were rotated
    when they entered the cache. Here the token at position p of a prompt of n tokens is rotated
    for the length max(p + 1, n). That equals transformers' `generate` by a freshly loaded model
    (one that served a longer sequence before may keep the longer one's frequencies), and it
    depends neither on the batch, nor on how a prompt is cut into chunks, nor on preemption.

    It does depend on where the prompt ends. Beyond `max_position` tokens a cached prefix is
    therefore exact only for a prompt of the length that computed it, and a sequence that
    continues on another worker must bring its own prompt length along.
    """

    def __init__(self, config: RopeConfig, head_size: int, device: torch.device) -> None:
        self._config = config
        self._exponents = (torch.arange(0, head_size, 2).float() / head_size).to(device)
        self._frequencies = frequencies(config, head_size).to(device)
        self._scale = attention_factor(config)
        self._tables: tuple[Tensor, Tensor] | None = None

    def rotation(
        self, positions: Tensor, lengths: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each [tokens, 1, head_size / 2], for positions and lengths [tokens].

        A token's length is max(position + 1, prompt length); only dynamic scaling reads it.
        """
        angles = positions[:, None].float() * self._frequencies_at(lengths)
        cosines, sines = angles.cos(), angles.sin()
        if self._scale != 1.0:
            cosines, sines = cosines * self._scale, sines * self._scale
        return cosines.to(dtype)[:, None], sines.to(dtype)[:, None]

    def try_tables(self, num_positions: int) -> tuple[Tensor, Tensor] | None:
        """Float32 cosines and sines, each [at least num_positions, head_size / 2], by position.

        None when a rotation depends on more than the position.
        """
        if isinstance(self._config, DynamicRope):
            return None
        if self._tables is None or len(self._tables[0]) < num_positions:
            length = max(1024, 1 << (num_positions - 1).bit_length())
            positions = torch.arange(length, device=self._frequencies.device)
            cosines, sines = self.rotation(positions, positions, torch.float32)
            self._tables = cosines[:, 0], sines[:, 0]
        return self._tables

    def _frequencies_at(self, lengths: Tensor) -> Tensor:
        if not isinstance(self._config, DynamicRope):
            return self._frequencies
        stretched = _stretched_frequencies(self._config, self._exponents, lengths[:, None])
        extended = lengths[:, None] > self._config.max_position
        return torch.where(extended, stretched, self._frequencies)


def rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """`heads` [tokens, heads, head_size] rotated; component i is paired with i + head_size / 2."""
    cosines, sines = rotation
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)


def frequencies(config: RopeConfig, head_size: int) -> Tensor:
    """Radians per position of each pair, [head_size / 2] in float32.

    With dynamic scaling these hold up to `max_position` tokens.
    """
    inverse = 1.0 / (config.theta ** (torch.arange(0, head_size, 2).float() / head_size))
    match config:
        case LinearRope():
            return inverse / config.factor
        case Llama3Rope():
            return _llama3_frequencies(config, inverse)
        case YarnRope():
            return _yarn_frequencies(config, head_size)
        case DefaultRope() | DynamicRope():
            return inverse


def attention_factor(config: RopeConfig) -> float:
    """Factor of cosines and sines; 1 except for YaRN."""
    if not isinstance(config, YarnRope):
        return 1.0
    if config.attention_factor is not None:
        return config.attention_factor
    if config.mscale and config.mscale_all_dim:
        wanted = _mscale(config.factor, config.mscale)
        return wanted / _mscale(config.factor, config.mscale_all_dim)
    return _mscale(config.factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _stretched_frequencies(config: DynamicRope, exponents: Tensor, lengths: Tensor) -> Tensor:
    """Frequencies [tokens, head_size / 2] at `lengths` [tokens, 1] beyond max_position."""
    head_size = 2 * exponents.shape[0]
    stretch = config.factor * lengths / config.max_position - (config.factor - 1)
    theta = config.theta * stretch.clamp(min=1.0) ** (head_size / (head_size - 2))
    return 1.0 / (theta**exponents)


def _llama3_frequencies(config: Llama3Rope, inverse: Tensor) -> Tensor:
    original = config.original_max_position
    wavelengths = 2 * math.pi / inverse
    ramp = (original / wavelengths - config.low_freq_factor) / (
        config.high_freq_factor - config.low_freq_factor
    )
    blended = (1 - ramp) * inverse / config.factor + ramp * inverse
    low = wavelengths > original / config.low_freq_factor
    high = wavelengths < original / config.high_freq_factor
    return torch.where(low, inverse / config.factor, torch.where(high, inverse, blended))


def _yarn_frequencies(config: YarnRope, head_size: int) -> Tensor:
    periods = config.theta ** (torch.arange(0, head_size, 2).float() / head_size)
    low, high = _yarn_range(config, head_size)
    ramp = (torch.arange(head_size // 2, dtype=torch.float32) - low) / (high - low)
    kept = 1 - ramp.clamp(0, 1)
    return (1.0 / (config.factor * periods)) * (1 - kept) + (1.0 / periods) * kept


def _yarn_range(config: YarnRope, head_size: int) -> tuple[float, float]:
    """The pairs between which interpolation begins and is complete."""

    def pair_turning(times: float) -> float:
        ratio = config.original_max_position / (times * 2 * math.pi)
        return head_size * math.log(ratio) / (2 * math.log(config.theta))

    low, high = pair_turning(config.beta_fast), pair_turning(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_size - 1)
    return low, high + 0.001 if low == high else high
