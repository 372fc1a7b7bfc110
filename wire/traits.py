"""Traits of a request beside its tokens and sampling parameters."""

from __future__ import annotations

import msgspec


class RequestTraits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Traits that travel whole from the router's APIs to every worker that serves the request.

    Every stage passes them on unchanged: a new field is added here, where the APIs' messages set
    it, and where a worker uses it.
    """

    cache_salt: bytes = b""
    """Cached blocks are shared only among requests with the same salt."""
    cache_prompt: bool = True
    """When false, the request neither uses cached blocks nor adds to them: bulk work leaves the
    prefix cache to others."""
    priority: int = 0
    """Smaller is more urgent: such requests start first, and are preempted last."""
    tenant: str = ""
    """Name of the API key, empty without keys. Tenants of one priority get equal shares of a
    worker."""


NO_TRAITS = RequestTraits()
"""Traits of a request that sets none."""
