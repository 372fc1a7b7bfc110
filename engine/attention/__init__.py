"""Attention over the paged KV cache: writes a step's keys and values, then reads every context."""
