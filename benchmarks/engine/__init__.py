"""The engine's speed, relative to the machine's limits and to transformers."""
