"""Moves KV cache blocks between workers: hashes, layouts, the handoff protocol, transports."""
