"""Binding a port, with an error that says which one and how to choose another."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

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
    address = f"{host}:{port}"
    credentials = None if tls is None else server_credentials(tls)
    try:
        if credentials is None:
            bound = int(server.add_insecure_port(address))
        else:
            bound = int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise PortTaken(_explain(host, port, key)) from error
    if bound == 0:
        raise PortTaken(_explain(host, port, key))
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
    is to listen there. Raises PortTaken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only for sockets that say that they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # Without this a restarted process waits for old connections; it shares the port with nobody.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    with _claiming(listener, host, port, key):
        listener.bind((host, port))
    return listener


@contextmanager
def _claiming(listener: socket.socket, host: str, port: int, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        listener.close()
        raise PortTaken(_explain(host, port, key)) from error


def is_loopback(host: str) -> bool:
    """Only processes of this machine reach it."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _explain(host: str, port: int, key: str) -> str:
    return (
        f"cannot listen on {host}:{port}: the port is taken, or this machine has no such address; "
        f"set {key} to another port, or to 0 for any free one"
    )
