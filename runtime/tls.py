"""TLS certificates: mutual TLS between the cluster's processes, and TLS of the public servers.

Every certificate inside a cluster has the same DNS name, whatever the process's address: both ends
check only for membership in the cluster, since addresses change with pods.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import msgspec

CLUSTER_NAME = "tandem-internal"


class BadCertificate(ValueError):
    """A certificate or key file cannot be used; names the file."""


class MutualTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PEM files for mutual TLS, read again for each new connection: replacing them needs no
    restart."""

    ca: str
    """Certificate of the authority that signs the cluster's certificates, ideally nothing else."""
    cert: str
    """Certificate of this process, signed by `ca`."""
    key: str
    """Private key of `cert`."""
    name: str = CLUSTER_NAME
    """DNS name among the subject alternative names of every process's certificate."""


class ServerTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PEM files for the public servers, read again when they change: replacing them needs no
    restart."""

    cert: str
    """Server certificate, with its chain up to a root that clients trust."""
    key: str
    """Private key of `cert`."""
    client_ca: str | None = None
    """Authority of client certificates, which are then required; None requires none."""


def channel_credentials(tls: MutualTls) -> grpc.ChannelCredentials:
    """Credentials for connecting to other processes. Raises BadCertificate."""
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca),
        private_key=_read(tls.key),
        certificate_chain=_read(tls.cert),
    )


def server_credentials(tls: MutualTls | ServerTls) -> grpc.ServerCredentials:
    """Credentials that read the files again at every new connection.

    If files become unusable later, the last usable ones stay in use. Raises BadCertificate if they
    are unusable now.
    """
    client_ca = tls.ca if isinstance(tls, MutualTls) else tls.client_ca
    files = (tls.cert, tls.key, *((client_ca,) if client_ca else ()))
    check_pair(tls.cert, tls.key)
    fetcher = _Fetcher(files)
    return grpc.dynamic_ssl_server_credentials(
        fetcher.current, fetcher.fetch, require_client_authentication=client_ca is not None
    )


def is_member(context: grpc.aio.ServicerContext, tls: MutualTls | None) -> bool:
    """Whether the caller's certificate has the cluster's name, besides being signed by its
    authority."""
    if tls is None:
        return True
    names = context.auth_context().get("x509_subject_alternative_name", ())
    return tls.name.encode() in names


def check_pair(cert: str, key: str) -> None:
    """Raises BadCertificate if a file is missing or not PEM, or if key and certificate do not
    match."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise BadCertificate(f"cert {cert} with key {key}: {_what(error)}") from error


class _Fetcher:
    """Reads changed files for gRPC, which calls it in a thread at each connection; None if
    unchanged."""

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
