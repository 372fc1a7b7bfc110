"""The maximum sequence length of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_POSITION = "max_position_embeddings"
ORIGINAL = "original_max_position_embeddings"


def model_length(config: Mapping[str, Any]) -> int:
    """Maximum sequence length of the model in config.json, in tokens, derived as in vLLM.

    Linear and dynamic scaling multiply max_position_embeddings; YaRN multiplies the original
    length; for all others (Llama 3's, LongRoPE) max_position_embeddings is the extended length
    already. Raises ValueError if a number is missing or invalid.
    """
    longest = _whole_number(config, MAX_POSITION)
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    match rope.get("rope_type") or rope.get("type"):
        case "linear" | "dynamic":
            return int(longest * _factor(rope))
        case "yarn":
            original = _original(config, rope, longest)
            return longest if rope.get("factor") is None else int(original * _factor(rope))
    return longest


def _original(config: Mapping[str, Any], rope: Mapping[str, Any], longest: int) -> int:
    """The length before scaling. As in transformers, a top-level value wins over one in the RoPE
    settings."""
    for source in (config, rope):
        if source.get(ORIGINAL) is not None:
            return _whole_number(source, ORIGINAL)
    return longest


def _whole_number(source: Mapping[str, Any], key: str) -> int:
    value = source.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{key} is {value!r}: it must be a positive whole number")
    return value


def _factor(rope: Mapping[str, Any]) -> float:
    value = rope.get("factor")
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"factor of the RoPE scaling is {value!r}: it must be a positive number")
    return float(value)
