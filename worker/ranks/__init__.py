"""Tensor parallelism: rank 0 starts the other ranks, which compute their parts of its steps."""
