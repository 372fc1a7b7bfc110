"""Where a router is to be found, once it listens."""

from __future__ import annotations

import msgspec


class RouterAddresses(msgspec.Struct, frozen=True, kw_only=True):
    """host:port of each listener."""

    router_id: str
    models: tuple[str, ...]
    grpc: str
    http: str
    fleet: str
    admin: str | None = None
