"""Memory that a transport registers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheRegion:
    """The memory of a KV cache: block i is at address + i * (num_bytes / number of blocks).

    `device` is "cpu" or "cuda:N". `keepalive` holds the memory's owner, which must live, mapped,
    for as long as any agent has the region registered.
    """

    address: int
    num_bytes: int
    device: str
    keepalive: object
