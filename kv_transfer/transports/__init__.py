"""Transports copy blocks between processes, over NIXL or UCX, or within one process."""
