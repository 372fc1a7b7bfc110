"""Request traits from clients' messages, read alike at both doors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.errors import InvalidRequest
from wire.traits import RequestTraits

ASKED_TRAITS = frozenset(RequestTraits.__struct_fields__) - {"tenant"}
"""Fields of a client's message that have the name of a trait, and become it. A request's tenant is
whoever's key it comes with, whatever it says."""
MAX_SALT_CHARS = 1024
MIN_PRIORITY, MAX_PRIORITY = -(2**31), 2**31 - 1


def asked_traits(given: Mapping[str, Any]) -> RequestTraits:
    """The traits among the fields that are present in a message. Raises InvalidRequest."""
    traits = {name: value for name, value in given.items() if name in ASKED_TRAITS}
    if "cache_salt" in traits:
        traits["cache_salt"] = _salt(traits["cache_salt"])
    priority = traits.get("priority", 0)
    if not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        allowed = f"at least {MIN_PRIORITY} and at most {MAX_PRIORITY}"
        raise InvalidRequest(f"priority is {priority}: it must be {allowed}", "priority")
    return RequestTraits(**traits)


def _salt(text: str) -> bytes:
    if 1 <= len(text) <= MAX_SALT_CHARS and text.isprintable():
        return text.encode()
    problem = f"cache_salt must be 1 to {MAX_SALT_CHARS} printable characters"
    raise InvalidRequest(problem, "cache_salt")
