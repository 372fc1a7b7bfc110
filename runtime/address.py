"""Addresses written host:port; an IPv6 host is in brackets."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from msgspec import Meta

Port = Annotated[int, Meta(ge=0, le=65535)]
"""A TCP port; 0 takes any free one."""
LOOPBACK = "127.0.0.1"


def join_address(host: str, port: int | str) -> str:
    """host:port, as in URLs and gRPC targets; `host` may have its brackets already."""
    bare = bare_host(host)
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """The host, without brackets, and the port. Raises ValueError if the text is not host:port."""
    host, colon, port = address.rpartition(":")
    bare = bare_host(host)
    bracketed = bare != host
    if not colon or not bare or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port, with a port of 0 to 65535")
    if ":" in bare and not bracketed:
        raise ValueError(f"{address!r}: write an IPv6 address in brackets, as [::1]:8000")
    return bare, int(port)


def bare_host(host: str) -> str:
    """The host without the brackets of an IPv6 address."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def is_address(host: str) -> bool:
    """Whether the host is an IP address rather than a name."""
    return _ip(host) is not None


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine can reach the host."""
    address = _ip(host)
    return bare_host(host) == "localhost" if address is None else address.is_loopback


def is_wildcard(host: str) -> bool:
    """Whether the host stands for every address of the machine: valid to listen on, not to connect
    to."""
    address = _ip(host)
    return address is not None and address.is_unspecified


def reachable(host: str, own: str) -> str:
    """The host at which others reach a process that listens at `host`: `own` for a wildcard."""
    return own if is_wildcard(host) else host


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(bare_host(host))
    except ValueError:
        return None
