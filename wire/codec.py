"""Encoding of messages: msgpack by msgspec, never pickle."""

from __future__ import annotations

import msgspec

from wire.messages import Message

MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class BadMessage(ValueError):
    """The bytes are not a message of this protocol version."""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode(frame: bytes) -> Message:
    """Decode one message. Raises BadMessage if the frame is none of `wire.messages.Message`."""
    try:
        return _decoder.decode(frame)
    except msgspec.DecodeError as error:
        raise BadMessage(f"{len(frame)} bytes are not a valid message: {error}") from error
