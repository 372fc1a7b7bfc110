"""Shapes of models that benchmarks and tests simulate."""

from __future__ import annotations

from sim.devices.model_shape import ModelShape

LLAMA_8B = ModelShape(
    num_layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_size=128,
    vocab_size=128256,
)
"""Llama 3 8B."""
LLAMA_70B = ModelShape(
    num_layers=80,
    hidden_size=8192,
    intermediate_size=28672,
    num_heads=64,
    num_kv_heads=8,
    head_size=128,
    vocab_size=128256,
)
"""Llama 3 70B."""
