"""Endpoints write blocks into a peer's cache: one for each rank, one over all ranks."""
