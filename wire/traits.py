"""What workers must know of a request besides its tokens and how new ones are drawn."""

from __future__ import annotations

import msgspec


class RequestTraits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Travels whole from the router's doors to every worker that serves the request.

    Whoever passes a request on passes this on: a new field is named here, where clients may set it
    in the doors' messages, and where a worker heeds it.
    """

    cache_salt: bytes = b""
    """Requests share cached blocks only with requests of the same salt."""
    cache_prompt: bool = True
    """When false, no cached block is used for this request, and none of its blocks becomes one:
    bulk work leaves the prefix cache to others."""
    priority: int = 0
    """Less is more urgent: it starts before others, and gives way after them."""
    tenant: str = ""
    """The name of the API key, empty where none are asked for. Tenants of one priority have equal
    shares of a worker."""


NO_TRAITS = RequestTraits()
"""Of a request that asks for nothing special."""
