"""Transports move bytes between two processes: NIXL, UCX, or memory within one process."""
