"""TLS of the public HTTP server: a context that reloads changed files and logs refused clients."""

from __future__ import annotations

import logging
import os
import ssl
import time
from typing import Any

from runtime.tls import BadCertificate, ServerTls, check_pair

CHECK_EVERY_S = 1.0
log = logging.getLogger("tandem.tls")
Signature = tuple[tuple[int, int, int] | None, ...]


def server_context(tls: ServerTls) -> ssl.SSLContext:
    """A context for any number of listeners. Raises BadCertificate."""
    current = _Current(tls)
    context = _new_context(tls)
    context.sni_callback = lambda connection, name, context: current.install(connection)
    return context


class _Current:
    """The context for the current files; unusable files leave the former one in use."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._seen = _signature(tls)
        self._context = _new_context(tls)
        self._checked_s = time.monotonic()

    def install(self, connection: ssl.SSLObject) -> None:
        """Called at each TLS ClientHello, with or without a server name."""
        if time.monotonic() - self._checked_s >= CHECK_EVERY_S:
            self._reload_if_changed()
        connection.context = self._context

    def _reload_if_changed(self) -> None:
        self._checked_s = time.monotonic()
        signature = _signature(self._tls)
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._context = _new_context(self._tls)
        except BadCertificate as error:
            log.error("the previous certificate stays in use: %s", error)
        else:
            log.info("%s was reloaded", self._tls.cert)


class _LoggedHandshake(ssl.SSLObject):
    """Logs failed handshakes, which event loops drop silently."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            log.warning("a client was refused in the TLS handshake: %s", error.reason or error)
            raise


def _new_context(tls: ServerTls) -> ssl.SSLContext:
    check_pair(tls.cert, tls.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.cert, tls.key)
    context.set_alpn_protocols(["http/1.1"])
    if tls.client_ca is not None:
        _require_client_certificates(context, tls.client_ca)
    context.sslobject_class = _LoggedHandshake
    return context


def _require_client_certificates(context: ssl.SSLContext, client_ca: str) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # a resumed session would skip the check against a replaced authority
    context.options |= ssl.OP_NO_TICKET
    try:
        context.load_verify_locations(client_ca)
    except (OSError, ssl.SSLError) as error:
        raise BadCertificate(f"client_ca {client_ca}: {error}") from error


def _signature(tls: ServerTls) -> Signature:
    return tuple(_stat(path) for path in (tls.cert, tls.key, tls.client_ca or tls.cert))


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        stat: Any = os.stat(path)
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
