"""A checkpoint's RoPE settings."""

from __future__ import annotations

import msgspec

from engine.errors import CheckpointError
from engine.model.keys import Keys


class DefaultRope(msgspec.Struct, frozen=True, tag="default"):
    """Su et al., "RoFormer" (2021)."""

    theta: float


class LinearRope(msgspec.Struct, frozen=True, tag="linear"):
    """Positions divided by `factor` (position interpolation)."""

    theta: float
    factor: float


class DynamicRope(msgspec.Struct, frozen=True, tag="dynamic"):
    """NTK-aware: beyond `max_position` tokens theta grows with the sequence."""

    theta: float
    factor: float
    max_position: int


class Llama3Rope(msgspec.Struct, frozen=True, tag="llama3"):
    """Low frequencies divided by `factor`, high ones kept, a ramp between, as Llama 3.1 does."""

    theta: float
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


class YarnRope(msgspec.Struct, frozen=True, tag="yarn"):
    """Peng et al., "YaRN" (2023). `attention_factor` None: follows from the other numbers."""

    theta: float
    factor: float
    original_max_position: int
    attention_factor: float | None
    mscale: float | None
    mscale_all_dim: float | None
    beta_fast: float
    beta_slow: float
    truncate: bool


RopeConfig = DefaultRope | LinearRope | DynamicRope | Llama3Rope | YarnRope


def read_rope(keys: Keys, max_position: int) -> RopeConfig:
    """RoPE settings under `rope_parameters`, or in the older form `rope_theta` + `rope_scaling`.

    Raises CheckpointError for a rope type not listed here, and for missing numbers.
    """
    rope = keys.mapping("rope_scaling" if keys.values.get("rope_scaling") else "rope_parameters")
    theta = rope.number("rope_theta", keys.number("rope_theta", 10_000.0))
    _refuse_partial(keys, rope)
    type_key = "rope_type" if "rope_type" in rope else "type"
    match rope.text(type_key, "default"):
        case "default":
            return DefaultRope(theta)
        case "linear":
            return LinearRope(theta, rope.number("factor"))
        case "dynamic":
            return DynamicRope(theta, rope.number("factor"), max_position)
        case "llama3":
            return _read_llama3(rope, theta, _original_max_position(keys, rope, max_position))
        case "yarn":
            original = _original_max_position(keys, rope, max_position)
            return _read_yarn(rope, theta, original, max_position)
    raise rope.invalid(type_key, "one of default, linear, dynamic, llama3, yarn")


def _read_llama3(rope: Keys, theta: float, original: int) -> Llama3Rope:
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if high <= low:
        raise rope.invalid("high_freq_factor", f"a number above low_freq_factor, {low}")
    return Llama3Rope(theta, rope.number("factor"), low, high, original)


def _read_yarn(rope: Keys, theta: float, original: int, max_position: int) -> YarnRope:
    return YarnRope(
        theta=theta,
        factor=rope.number("factor", max_position / original),
        original_max_position=original,
        attention_factor=rope.optional_number("attention_factor"),
        mscale=rope.optional_number("mscale"),
        mscale_all_dim=rope.optional_number("mscale_all_dim"),
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        truncate=rope.flag("truncate", True),
    )


def _original_max_position(keys: Keys, rope: Keys, max_position: int) -> int:
    """A value beside the RoPE settings wins over one among them, as in transformers."""
    name = "original_max_position_embeddings"
    return keys.integer(name) if name in keys else rope.integer(name, max_position)


def _refuse_partial(keys: Keys, rope: Keys) -> None:
    for source in (keys, rope):
        if source.number("partial_rotary_factor", 1.0) != 1.0:
            raise source.invalid("partial_rotary_factor", "1: whole heads rotate")
    nested = [key for key, value in rope.values.items() if isinstance(value, dict)]
    if nested:
        raise CheckpointError(
            f"{keys.path}: key 'rope_parameters.{nested[0]}': RoPE settings that differ between "
            "layers are not supported"
        )
