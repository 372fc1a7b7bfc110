"""Binding a port, with an error that says what is wrong with it and which setting to change."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from runtime.address import bare_host, is_wildcard, join_address
from runtime.tls import DoorTls, MutualTls, server_credentials


class PortTaken(OSError):
    """Somebody else has the port, or this machine does not have the address."""


def bind(
    server: grpc.aio.Server,
    host: str,
    port: int,
    key: str,
    tls: MutualTls | DoorTls | None = None,
) -> int:
    """Bind a gRPC server and return the port, a free one when `port` is 0.

    `key` is the setting that the error tells the user to change. Raises PortTaken, BadCertificate.
    """
    address = join_address(host, port)
    credentials = None if tls is None else server_credentials(tls)
    try:
        if credentials is None:
            bound = int(server.add_insecure_port(address))
        else:
            bound = int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise _grpc_refusal(host, port, key) from error
    if bound == 0:
        raise _grpc_refusal(host, port, key)
    return bound


def open_listener(host: str, port: int, key: str, *, shared: bool = False) -> socket.socket:
    """A listening TCP socket for servers other than gRPC's; as `bind` for the rest.

    With `shared` others who say so may listen on the same port: each gets some connections.
    """
    listener = reserve_port(host, port, key, shared=shared)
    with _claiming(listener, host, port, key):
        listener.listen(2048)
    return listener


def reserve_port(host: str, port: int, key: str, *, shared: bool = False) -> socket.socket:
    """A TCP socket with a port, any free one when it is 0, at which nobody listens yet.

    While it is held, nobody is given the port but who asks for it by number, as a process may that
    is to listen there. "::" is all addresses of both families. Raises PortTaken.
    """
    family = _family(host, port, key)
    # asyncio turns Nagle's algorithm off only for sockets that say that they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # Without this a restarted process waits for old connections; it shares the port with nobody.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6 and is_wildcard(host):
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    with _claiming(listener, host, port, key):
        listener.bind((bare_host(host), port))
    return listener


@contextmanager
def claimed_port(host: str, port: int, key: str) -> Iterator[None]:
    """Make sure that nobody has a port, then let processes of this user share it.

    To be held while the first of them begins to listen: SO_REUSEPORT asks only whether both sockets
    have it, so that without this two clusters would share a port and each other's clients. Raises
    PortTaken.
    """
    if port == 0:
        yield
        return
    with reserve_port(host, port, key) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # another claim must fail
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield


def _family(host: str, port: int, key: str) -> socket.AddressFamily:
    """IPv4 where a name has both. Raises PortTaken for a name that nobody knows."""
    try:
        found = socket.getaddrinfo(bare_host(host), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _refusal(error, host, port, key) from error
    families = {info[0] for info in found}
    return socket.AF_INET if socket.AF_INET in families else socket.AF_INET6


@contextmanager
def _claiming(listener: socket.socket, host: str, port: int, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        listener.close()
        raise _refusal(error, host, port, key) from error


def _grpc_refusal(host: str, port: int, key: str) -> PortTaken:
    """gRPC tells no cause: a plain socket meets the same one."""
    try:
        reserve_port(host, port, key).close()
    except PortTaken as error:
        return error
    return _refusal(OSError(errno.EADDRINUSE, "taken"), host, port, key)


def _refusal(error: OSError, host: str, port: int, key: str) -> PortTaken:
    """One cause, and what to change; `key` is the setting of the port."""
    another = f"set {key} to another port, or to 0 for any free one"
    causes = {
        errno.EADDRINUSE: f"the port is taken; {another}",
        errno.EACCES: f"only root may take this port; {another}",
        errno.EADDRNOTAVAIL: f"this machine has no such address; change the host beside {key}",
        socket.EAI_NONAME: f"there is no such name; change the host beside {key}",
    }
    cause = causes.get(
        error.errno or 0, f"{error.strerror or error}; change {key} or the host beside it"
    )
    return PortTaken(f"cannot listen on {join_address(host, port)}: {cause}")
