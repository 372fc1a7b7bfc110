"""Kubernetes' protobuf envelope, for the secrets in which Helm keeps its releases."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from tests.helm.documents import Document

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\x00"
LENGTH_DELIMITED = 2


def can_write(body: Document) -> bool:
    return body.get("kind") in ("Secret", "SecretList")


def read(frame: bytes) -> Document:
    """A secret. Unknown{1: TypeMeta, 2: raw}; Secret{1: metadata, 2: data, 3: type}."""
    (secret,) = [value for number, value in _fields(frame[len(MAGIC) :]) if number == 2]
    document: Document = {"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {}}
    for number, value in _fields(secret):
        if number == 1:
            document["metadata"] = _read_metadata(value)
        elif number == 2:
            key, content = _entry(value)
            document["data"][key] = base64.b64encode(content).decode()
        elif number == 3:
            document["type"] = value.decode()
    return document


def _read_metadata(message: bytes) -> Document:
    """ObjectMeta{1: name, 3: namespace, 11: labels}."""
    metadata: Document = {"labels": {}}
    for number, value in _fields(message):
        if number == 1:
            metadata["name"] = value.decode()
        elif number == 11:
            key, content = _entry(value)
            metadata["labels"][key] = content.decode()
    return metadata


def write(body: Document) -> bytes:
    if body["kind"] == "SecretList":
        version = body["metadata"]["resourceVersion"].encode()
        raw = _field(1, _field(2, version))
        raw += b"".join(_field(2, _write_secret(item)) for item in body["items"])
    else:
        raw = _write_secret(body)
    type_meta = _field(1, b"v1") + _field(2, body["kind"].encode())
    return MAGIC + _field(1, type_meta) + _field(2, raw)


def _write_secret(document: Document) -> bytes:
    metadata = document["metadata"]
    head = _field(1, metadata["name"].encode()) + _field(3, metadata["namespace"].encode())
    head += _field(5, metadata["uid"].encode()) + _field(6, metadata["resourceVersion"].encode())
    for key, value in metadata.get("labels", {}).items():
        head += _field(11, _field(1, key.encode()) + _field(2, value.encode()))
    message = _field(1, head)
    for key, value in document.get("data", {}).items():
        message += _field(2, _field(1, key.encode()) + _field(2, base64.b64decode(value)))
    return message + _field(3, document.get("type", "Opaque").encode())


def _entry(message: bytes) -> tuple[str, bytes]:
    found = dict(_fields(message))
    return found.get(1, b"").decode(), found.get(2, b"")


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, bytes) of each field with a length; numbers are passed over."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        if tag & 7 == LENGTH_DELIMITED:
            yield tag >> 3, message[at : at + value]
            at += value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _field(number: int, content: bytes) -> bytes:
    return _encode(number << 3 | LENGTH_DELIMITED) + _encode(len(content)) + content


def _encode(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
