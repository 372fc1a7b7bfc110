"""Certificates: between our own processes, where both ends show one, and at the doors.

Every certificate inside a cluster carries one agreed name, whatever address its process has: it
says "a member of this cluster", which is what both ends ask. Addresses come and go with pods.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import msgspec

CLUSTER_NAME = "tandem-internal"


class BadCertificate(ValueError):
    """A file of a certificate or key cannot be used; names it."""


class MutualTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files in PEM, read again for each new connection: replacing them needs no restart."""

    ca: str
    """Of the authority that signs the cluster's certificates, and best nothing else."""
    cert: str
    """Of this process, signed by `ca`."""
    key: str
    """Of `cert`."""
    name: str = CLUSTER_NAME
    """DNS name among the subject alternative names of every process's certificate."""


class DoorTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files in PEM, read again when they change: replacing them needs no restart."""

    cert: str
    """With the chain up to what clients trust."""
    key: str
    """Of `cert`."""
    client_ca: str | None = None
    """Clients must show a certificate of this authority; None asks them for none."""


def channel_credentials(tls: MutualTls) -> grpc.ChannelCredentials:
    """Raises BadCertificate."""
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca),
        private_key=_read(tls.key),
        certificate_chain=_read(tls.cert),
    )


def server_credentials(tls: MutualTls | DoorTls) -> grpc.ServerCredentials:
    """The files are read again at every new connection; while they cannot be used, what was read
    last goes on. Raises BadCertificate when they cannot be used at all."""
    client_ca = tls.ca if isinstance(tls, MutualTls) else tls.client_ca
    files = (tls.cert, tls.key, *((client_ca,) if client_ca else ()))
    check_pair(tls.cert, tls.key)
    fetcher = _Fetcher(files)
    return grpc.dynamic_ssl_server_credentials(
        fetcher.current, fetcher.fetch, require_client_authentication=client_ca is not None
    )


def is_member(context: grpc.aio.ServicerContext, tls: MutualTls | None) -> bool:
    """Whether the certificate of whoever calls carries the cluster's name: other certificates of
    the same authority are good for other things."""
    if tls is None:
        return True
    names = context.auth_context().get("x509_subject_alternative_name", ())
    return tls.name.encode() in names


def check_pair(cert: str, key: str) -> None:
    """Raises BadCertificate for files that are not there, no PEM, or do not belong together."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise BadCertificate(f"cert {cert} with key {key}: {_what(error)}") from error


class _Fetcher:
    """Called by gRPC, in a thread of its own, when somebody connects; None: as before."""

    def __init__(self, files: tuple[str, ...]) -> None:
        self._files = files
        self._read = tuple(map(_read, files))

    @property
    def current(self) -> grpc.ServerCertificateConfiguration:
        cert, key, *authorities = self._read
        return grpc.ssl_server_certificate_configuration(
            [(key, cert)], root_certificates=authorities[0] if authorities else None
        )

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            read = tuple(map(_read, self._files))
            if read == self._read:
                return None
            check_pair(*self._files[:2])
        except BadCertificate:
            return None
        self._read = read
        return self.current


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadCertificate(f"{path}: {_what(error)}") from error


def _what(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
