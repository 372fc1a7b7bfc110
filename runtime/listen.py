"""Binding ports, with errors that name the cause and the setting to change."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from runtime.address import bare_host, is_wildcard, join_address
from runtime.tls import MutualTls, ServerTls, server_credentials


class PortTaken(OSError):
    """The port is in use, or this machine does not have the address."""


def bind(
    server: grpc.aio.Server,
    host: str,
    port: int,
    key: str,
    tls: MutualTls | ServerTls | None = None,
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
    """A listening TCP socket for servers other than gRPC's. Raises PortTaken.

    With `shared`, other `shared` listeners may use the port: connections are balanced among them.
    """
    listener = reserve_port(host, port, key, shared=shared)
    with _closing_on_error(listener, host, port, key):
        listener.listen(2048)
    return listener


def reserve_port(host: str, port: int, key: str, *, shared: bool = False) -> socket.socket:
    """Bind a TCP socket to a port, any free one if it is 0, without listening yet.

    While the socket is open, the kernel gives the port to no process that asks for any free one.
    The host "::" is all addresses of both families. Raises PortTaken.
    """
    family = _family(host, port, key)
    # asyncio disables Nagle's algorithm only for sockets with this protocol number.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # Without this a restarted process waits for old connections; it does not share the port.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6 and is_wildcard(host):
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    with _closing_on_error(listener, host, port, key):
        listener.bind((bare_host(host), port))
    return listener


@contextmanager
def claimed_port(host: str, port: int, key: str) -> Iterator[None]:
    """Make sure that no process has the port, then let processes of this user share it.

    Hold it until the first of them listens. SO_REUSEPORT only requires that both sockets have set
    it, so without this check two clusters would share a port and each other's clients. Raises
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
    """The host's address family; IPv4 if it has both. Raises PortTaken for an unknown name."""
    try:
        found = socket.getaddrinfo(bare_host(host), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _refusal(error, host, port, key) from error
    families = {info[0] for info in found}
    return socket.AF_INET if socket.AF_INET in families else socket.AF_INET6


@contextmanager
def _closing_on_error(listener: socket.socket, host: str, port: int, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        listener.close()
        raise _refusal(error, host, port, key) from error


def _grpc_refusal(host: str, port: int, key: str) -> PortTaken:
    """The cause of a failed gRPC bind, which gRPC does not report: a plain socket fails
    likewise."""
    try:
        reserve_port(host, port, key).close()
    except PortTaken as error:
        return error
    return _refusal(OSError(errno.EADDRINUSE, "in use"), host, port, key)


def _refusal(error: OSError, host: str, port: int, key: str) -> PortTaken:
    """The error with its cause and the change that fixes it; `key` is the port's setting."""
    another = f"set {key} to another port, or to 0 for any free one"
    causes = {
        errno.EADDRINUSE: f"the port is in use; {another}",
        errno.EACCES: f"only root may bind this port; {another}",
        errno.EADDRNOTAVAIL: f"no network interface has this address; change the host beside {key}",
        socket.EAI_NONAME: f"this name does not resolve; change the host beside {key}",
    }
    cause = causes.get(
        error.errno or 0, f"{error.strerror or error}; change {key} or the host beside it"
    )
    return PortTaken(f"cannot listen on {join_address(host, port)}: {cause}")
