"""Messages with a length prefix over a socket between two processes of one machine."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

MAX_FRAME_BYTES = 64 * 1024 * 1024
_LENGTH = struct.Struct("<I")


class SocketClosed(Exception):
    """The other process has closed its end, or has ended."""


class MessageSocket:
    """Any thread may send; one thread receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._reader = end.makefile("rb", buffering=64 * 1024)
        self._lock = threading.Lock()

    def send(self, frame: bytes) -> None:
        """Waits while the other end's buffer is full. Raises SocketClosed."""
        assert len(frame) <= MAX_FRAME_BYTES, f"a frame of {len(frame)} bytes"
        try:
            with self._lock:
                self._socket.sendall(_LENGTH.pack(len(frame)) + frame)
        except OSError as error:
            raise SocketClosed from error

    def receive(self) -> bytes | None:
        """The next message; None when the other end is closed."""
        head = self._read(_LENGTH.size)
        return None if head is None else self._read(*_LENGTH.unpack(head))

    def close(self) -> None:
        """Shut the connection down, which also wakes a receiving thread of this process."""
        with contextlib.suppress(OSError):  # the other end may have closed it
            self._socket.shutdown(socket.SHUT_RDWR)

    def free(self) -> None:
        """Close the file descriptor, when no thread uses it any more."""
        self._reader.close()
        self._socket.close()

    def _read(self, count: int) -> bytes | None:
        try:
            read = self._reader.read(count)
        except OSError:
            return None
        return read if len(read) == count else None
