"""API keys: read from a file, which may change, and identified by their hashes."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from router.errors import StartError

PREFIX = "tandem-"
KEY_BYTES = 32
MAX_KEY_CHARS = 512
MAX_NAME_CHARS = 128
CHECK_EVERY_S = 1.0
log = logging.getLogger("tandem.router.access.keys")


class KeyLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one key over all routers behind the same ports of a machine; None for no limit."""

    requests_per_minute: float | None = None
    """Requests per minute; a whole minute's worth may come at once."""
    tokens_per_minute: float | None = None
    """Tokens of prompts and answers per minute."""
    concurrency: int | None = None
    """Number of concurrent requests."""


class KeyEntry(KeyLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key in the file. `name: sha256:…` is short for `name: {hash: sha256:…}`."""

    hash: str | tuple[str, ...]
    """Hash of the key; several while the key is being rotated."""
    max_priority: int = 0
    """Most urgent priority that its requests may ask for; smaller is more urgent."""
    share_group: str | None = None
    """Keys of one group share cached prompts; keys without a common group never do."""
    admin: bool = False
    """Whether the key may use the admin port, if keys are required there."""


class Tenant(msgspec.Struct, frozen=True):
    """The owner of a key. `salt` seeds the block hashes of its prompts."""

    name: str
    entry: KeyEntry
    salt: bytes


class KeyRing:
    """The keys of one version of the file. Raises ValueError, which names the invalid entry."""

    def __init__(self, entries: Mapping[str, KeyEntry]) -> None:
        # Look-ups use a keyed digest that clients cannot steer, so their timing reveals nothing of
        # the keys.
        self._secret = secrets.token_bytes(32)
        self._tenants: dict[bytes, Tenant] = {}
        salts = _salts(entries)
        for name, entry in entries.items():
            for text in _hashes(entry):
                keyed_digest = self._keyed_digest(_parse_hash(name, text))
                if keyed_digest in self._tenants:
                    raise ValueError(
                        f"{name}: has the same key as {self._tenants[keyed_digest].name}"
                    )
                self._tenants[keyed_digest] = Tenant(name, entry, salts[name])

    def find(self, key: str) -> Tenant | None:
        if len(key) > MAX_KEY_CHARS:
            return None
        return self._tenants.get(self._keyed_digest(hashlib.sha256(key.encode()).digest()))

    @property
    def names(self) -> set[str]:
        return {tenant.name for tenant in self._tenants.values()}

    def _keyed_digest(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._secret, digest_size=16).digest()


class KeyFile:
    """The keys of a file, re-read when it changes. Raises StartError if the first reading fails."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._checked_s = float("-inf")
        self._signature_seen = _signature(path)
        try:
            self._ring = read_keys(path)
        except (OSError, ValueError) as error:
            raise StartError(f"keys_file {path}: {error}") from error

    def ring(self, now_s: float) -> KeyRing:
        """The current keys. Checks the file for changes once a second; an invalid file changes
        nothing."""
        if now_s - self._checked_s >= CHECK_EVERY_S:
            self._checked_s = now_s
            signature = _signature(self._path)
            if signature != self._signature_seen:
                self._signature_seen = signature
                self._reload()
        return self._ring

    def _reload(self) -> None:
        try:
            self._ring = read_keys(self._path)
        except (OSError, ValueError) as error:
            log.error(
                "keys_file %s is invalid, the previous keys stay valid: %s", self._path, error
            )
        else:
            log.info("keys_file %s was reloaded: %d keys", self._path, len(self._ring.names))


def read_keys(path: str) -> KeyRing:
    """Read a file of keys. Raises OSError, or ValueError that names the entry and its error."""
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {error}") from error
    if not isinstance(tree, dict) or not tree:
        raise ValueError("must be a mapping of names to hashes: `tandem key new NAME` makes a line")
    return KeyRing({str(name): _entry(str(name), value) for name, value in tree.items()})


def generate_key() -> tuple[str, str]:
    """A new key, and its hash for the file.

    A key is 256 random bits, which cannot be guessed, so a plain SHA-256 is as safe as a slow
    password hash, and takes a microsecond per request.
    """
    key = PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode().rstrip("=")
    return key, "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def check_name(name: str) -> None:
    """Raises ValueError for a name that logs and metrics cannot show."""
    if not (1 <= len(name) <= MAX_NAME_CHARS and name.isprintable() and " " not in name):
        raise ValueError(f"{name!r}: a name is 1 to {MAX_NAME_CHARS} printable characters")


def _entry(name: str, value: Any) -> KeyEntry:
    check_name(name)
    try:
        entry = msgspec.convert({"hash": value} if isinstance(value, str) else value, KeyEntry)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}") from error
    for field in ("requests_per_minute", "tokens_per_minute", "concurrency"):
        limit = getattr(entry, field)
        if limit is not None and not limit > 0:
            raise ValueError(f"{name}: {field} is {limit}, must be over 0")
    return entry


def _hashes(entry: KeyEntry) -> tuple[str, ...]:
    return (entry.hash,) if isinstance(entry.hash, str) else entry.hash


def _parse_hash(name: str, text: str) -> bytes:
    kind, _, digits = text.partition(":")
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        digest = b""
    if kind != "sha256" or len(digest) != 32:
        raise ValueError(f"{name}: a hash is sha256: and 64 hexadecimal digits, not {text[:12]!r}…")
    return digest


def _salts(entries: Mapping[str, KeyEntry]) -> dict[str, bytes]:
    """The cache salt of each key, shared within groups and derived from the members' hashes.

    The hashes are random and secret, and equal in all routers and after a restart, so nobody can
    compute the salt of another key or group.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name, entry in entries.items():
        groups.setdefault(_group(name, entry), []).extend(_hashes(entry))
    return {name: _salt(*_group(name, entry), groups) for name, entry in entries.items()}


def _group(name: str, entry: KeyEntry) -> tuple[str, str]:
    return ("key", name) if entry.share_group is None else ("group", entry.share_group)


def _salt(kind: str, name: str, groups: Mapping[tuple[str, str], list[str]]) -> bytes:
    secret = hashlib.sha256("\n".join(sorted(groups[kind, name])).encode()).digest()
    return hashlib.blake2b(f"{kind}:{name}".encode(), key=secret, digest_size=32).digest()


def _signature(path: str) -> tuple[int, int, int] | None:
    """The file's identity and version; None if it does not exist."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
