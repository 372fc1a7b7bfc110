"""Certificates made on the spot, as files where settings want them."""

from __future__ import annotations

from pathlib import Path

import trustme

from runtime.tls import CLUSTER_NAME, MutualTls, ServerTls


class Authority:
    """A certificate authority, and the files of what it signs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def sign(self, file: str, *names: str) -> tuple[str, str]:
        """Paths of a certificate for these names and of its key; written over what was there."""
        pair = self._ca.issue_cert(*names)
        cert, key = self._folder / f"{file}.pem", self._folder / f"{file}.key"
        pair.private_key_pem.write_to_path(str(key))
        cert.write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
        return str(cert), str(key)

    def member(self, file: str = "member", name: str = CLUSTER_NAME) -> MutualTls:
        """Settings of a process of the cluster."""
        cert, key = self.sign(file, name)
        return MutualTls(ca=str(self.file), cert=cert, key=key)

    def door(self, client_ca: Path | None = None) -> ServerTls:
        """Settings of doors on loopback."""
        cert, key = self.sign("door", "127.0.0.1", "localhost")
        return ServerTls(
            cert=cert, key=key, client_ca=None if client_ca is None else str(client_ca)
        )


def spoil(path: str) -> None:
    """Half-written, or something else."""
    Path(path).write_text("nonsense")


def remove(path: str) -> None:
    Path(path).unlink()
