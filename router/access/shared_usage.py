"""Usage of keys, shared by the routers behind the same ports of one machine.

The counters are in a small file that every router maps into its memory. Changes are made under a
lock; running requests are counted in one column per router, which is void once that router has
ended. Times are those of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from router.access.limits import NUM_CELLS, Cells

MAX_ROUTERS = 64
MAX_KEYS = 4096
"""Number of keys in the file, former ones included; further keys are counted per router."""
NAME_BYTES = 16
LOCK_TIMEOUT_S = 0.005
"""Timeout for the lock: a router may be suspended while it holds it; a count may then be off."""
_NUM_DOUBLES = 2 * NUM_CELLS + MAX_ROUTERS
_SHAPE = (MAX_KEYS, NAME_BYTES, _NUM_DOUBLES)
"""Format of the file; only routers with the same format share one."""
_FILE_BYTES = MAX_KEYS * (NAME_BYTES + 8 * _NUM_DOUBLES)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SharedUsage:
    """The file, opened by one router. Raises OSError if it cannot be created."""

    def __init__(self, path: Path) -> None:
        self._path = path
        while not self._try_join(_open(path)):
            pass  # the last other router has just removed the file

    def usage(self, name: str) -> SharedKeyUsage | None:
        """The usage of the key of that name; None if the file is full."""
        digest = hashlib.blake2b(name.encode(), digest_size=NAME_BYTES).digest()
        with self.locked():
            slot = self._find(digest)
        if slot is None:
            return None
        first = slot * _NUM_DOUBLES
        return SharedKeyUsage(self, self._counts[first : first + _NUM_DOUBLES], self._column)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock, unless its holder does not release it within the timeout."""
        until = time.monotonic() + LOCK_TIMEOUT_S
        while not _try_flock(self._fd) and time.monotonic() < until:
            time.sleep(0)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _try_join(self, fd: int) -> bool:
        """Join the file; False if it was removed meanwhile. A router with a column prevents its
        removal."""
        self._fd = fd
        try:
            with self.locked():
                if self._file_exists():
                    self._join()
                    return True
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return False

    def _join(self) -> None:
        self._column = self._claim_column()
        # Allocate all memory now: writing where it runs out later would kill the process.
        os.posix_fallocate(self._fd, 0, _FILE_BYTES)
        self._map = mmap.mmap(self._fd, _FILE_BYTES)
        self._names = memoryview(self._map)[: MAX_KEYS * NAME_BYTES]
        self._counts = memoryview(self._map)[MAX_KEYS * NAME_BYTES :].cast("d")
        self._clear_column()

    def _file_exists(self) -> bool:
        """Whether the file still has a name."""
        return os.fstat(self._fd).st_nlink > 0

    def has_ended(self, column: int) -> bool:
        """Whether the router with this column has ended."""
        return column != self._column and _lock(self._fd, fcntl.F_OFD_GETLK, column)

    def close(self) -> None:
        """Leave the file; the last router removes it."""
        with self.locked():
            self._clear_column()
            others = set(range(MAX_ROUTERS)) - {self._column}
            if self._file_exists() and all(map(self.has_ended, others)):
                with suppress(FileNotFoundError):
                    self._path.unlink()
        # Closing the file would not unlock it: the mapping keeps it open.
        _lock(self._fd, fcntl.F_OFD_SETLK, self._column, fcntl.F_UNLCK)
        os.close(self._fd)

    def _claim_column(self) -> int:
        for column in range(MAX_ROUTERS):
            if _lock(self._fd, fcntl.F_OFD_SETLK, column):
                return column
        raise OSError(errno.EUSERS, f"{MAX_ROUTERS} routers share it already", str(self._path))

    def _clear_column(self) -> None:
        for slot in range(MAX_KEYS):
            if not any(self._names[slot * NAME_BYTES : (slot + 1) * NAME_BYTES]):
                return
            self._counts[slot * _NUM_DOUBLES + 2 * NUM_CELLS + self._column] = 0.0

    def _find(self, digest: bytes) -> int | None:
        """The slot of a name; a new name takes the first free one."""
        for slot in range(MAX_KEYS):
            name = self._names[slot * NAME_BYTES : (slot + 1) * NAME_BYTES]
            if not any(name):
                name[:] = digest
            if name == digest:
                return slot
        return None


class SharedKeyUsage:
    """Usage of one key over all routers that share the file."""

    def __init__(self, shared: SharedUsage, counts: memoryview[float], column: int) -> None:
        self.requests: Cells = counts[:NUM_CELLS]
        self.tokens: Cells = counts[NUM_CELLS : 2 * NUM_CELLS]
        self._running = counts[2 * NUM_CELLS :]
        self._column = column
        self._shared = shared
        self.locked = shared.locked

    def add_running(self, difference: int) -> None:
        """Add to this router's column."""
        self._running[self._column] += difference

    def num_running(self, limit: int) -> int:
        if sum(self._running) >= limit:
            for column, count in enumerate(self._running):
                if count and self._shared.has_ended(column):
                    self._running[column] = 0.0
        return int(sum(self._running))


def path_for(*identity: object) -> Path:
    """The file for routers with the same ports and keys; in shared memory if possible."""
    memory = Path("/dev/shm")
    folder = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    boot = _BOOT_ID.read_text() if _BOOT_ID.exists() else ""
    meeting = repr((boot, os.geteuid(), _SHAPE, identity))
    named = hashlib.blake2b(meeting.encode(), digest_size=8)
    return folder / f"tandem-keys-{named.hexdigest()}"


def _open(path: Path) -> int:
    """Open or create the file. Raises PermissionError if it belongs to another user."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.fstat(fd).st_uid != os.geteuid():
        os.close(fd)
        raise PermissionError(errno.EPERM, "belongs to somebody else", str(path))
    return fd


def _try_flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock(fd: int, command: int, byte: int, kind: int = fcntl.F_WRLCK) -> bool:
    """Lock a byte for as long as the file is open, or test whether it is unlocked."""
    wanted = struct.pack("hhqqi0q", kind, os.SEEK_SET, byte, 1, 0)
    try:
        found = fcntl.fcntl(fd, command, wanted)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    assert isinstance(found, bytes)
    return command == fcntl.F_OFD_SETLK or struct.unpack("hhqqi0q", found)[0] == fcntl.F_UNLCK
