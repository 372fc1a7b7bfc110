"""TLS of the HTTP door: a context that follows its files, and tells of clients it refuses."""

from __future__ import annotations

import logging
import os
import ssl
import time
from typing import Any

from runtime.tls import BadCertificate, DoorTls, check_pair

LOOK_EVERY_S = 1.0
log = logging.getLogger("tandem.tls")
Signature = tuple[tuple[int, int, int] | None, ...]


def door_context(tls: DoorTls) -> ssl.SSLContext:
    """For any number of listeners. Raises BadCertificate."""
    current = _Current(tls)
    front = _new_context(tls)
    front.sni_callback = lambda connection, name, context: current.install(connection)
    return front


class _Current:
    """The context of the files as they are now; one that cannot be used leaves the former."""

    def __init__(self, tls: DoorTls) -> None:
        self._tls = tls
        self._seen = _signature(tls)
        self._context = _new_context(tls)
        self._looked_s = time.monotonic()

    def install(self, connection: ssl.SSLObject) -> None:
        """Called when a client says hello, whether or not it names a server."""
        if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
            self._look()
        connection.context = self._context

    def _look(self) -> None:
        self._looked_s = time.monotonic()
        signature = _signature(self._tls)
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._context = _new_context(self._tls)
        except BadCertificate as error:
            log.error("the former certificate stays in use: %s", error)
        else:
            log.info("%s was read again", self._tls.cert)


class _ToldObject(ssl.SSLObject):
    """Event loops drop a failed handshake without a word."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            log.warning("a client was refused in the TLS handshake: %s", error.reason or error)
            raise


def _new_context(tls: DoorTls) -> ssl.SSLContext:
    check_pair(tls.cert, tls.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.cert, tls.key)
    context.set_alpn_protocols(["http/1.1"])
    if tls.client_ca is not None:
        _ask_clients(context, tls.client_ca)
    context.sslobject_class = _ToldObject
    return context


def _ask_clients(context: ssl.SSLContext, client_ca: str) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # a resumed session would not be asked again, by whatever authority
    context.options |= ssl.OP_NO_TICKET
    try:
        context.load_verify_locations(client_ca)
    except (OSError, ssl.SSLError) as error:
        raise BadCertificate(f"client_ca {client_ca}: {error}") from error


def _signature(tls: DoorTls) -> Signature:
    return tuple(_stat(path) for path in (tls.cert, tls.key, tls.client_ca or tls.cert))


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        stat: Any = os.stat(path)
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
