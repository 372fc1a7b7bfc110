"""What keys have used, counted together by the routers behind one port of a machine.

The counts lie in a small file that every router maps into its memory. Whoever changes them holds a
lock; what is under way is counted in a column of each router's own, which is void once that router
is gone. Times are those of the machine's monotonic clock, which all of its processes share.
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
"""Names that the file has room for, those of former keys included; others are counted alone."""
NAME_BYTES = 16
PATIENCE_S = 0.005
"""A router that was stopped while it held the lock is not waited for: a count may be off then."""
_NUM_DOUBLES = 2 * NUM_CELLS + MAX_ROUTERS
_SHAPE = (MAX_KEYS, NAME_BYTES, _NUM_DOUBLES)
"""Of the file: only those share one that read it alike."""
_FILE_BYTES = MAX_KEYS * (NAME_BYTES + 8 * _NUM_DOUBLES)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SharedTallies:
    """Opened by each router. Raises OSError where the file cannot be had."""

    def __init__(self, path: Path) -> None:
        self._path = path
        while not self._try_join(_open(path)):
            pass  # the last of the others has just taken the file along

    def tally(self, name: str) -> SharedTally | None:
        """Of the key of that name, from now on; None when the file is full."""
        digest = hashlib.blake2b(name.encode(), digest_size=NAME_BYTES).digest()
        with self.held():
            slot = self._find(digest)
        if slot is None:
            return None
        first = slot * _NUM_DOUBLES
        return SharedTally(self, self._counts[first : first + _NUM_DOUBLES], self._column)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else changes anything meanwhile, unless they lost patience."""
        until = time.monotonic() + PATIENCE_S
        while not _try_flock(self._fd) and time.monotonic() < until:
            time.sleep(0)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _try_join(self, fd: int) -> bool:
        """False when the file is nobody's any more. Who has a column keeps the others from that."""
        self._fd = fd
        try:
            with self.held():
                if self._is_there():
                    self._join()
                    return True
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return False

    def _join(self) -> None:
        self._column = self._claim_column()
        # All of it now: where memory ends later, writing there would end the process.
        os.posix_fallocate(self._fd, 0, _FILE_BYTES)
        self._map = mmap.mmap(self._fd, _FILE_BYTES)
        self._names = memoryview(self._map)[: MAX_KEYS * NAME_BYTES]
        self._counts = memoryview(self._map)[MAX_KEYS * NAME_BYTES :].cast("d")
        self._clear_column()

    def _is_there(self) -> bool:
        """Others can still find the file."""
        return os.fstat(self._fd).st_nlink > 0

    def is_gone(self, column: int) -> bool:
        """No router that lives has this column."""
        return column != self._column and _lock(self._fd, fcntl.F_OFD_GETLK, column)

    def close(self) -> None:
        """The last router takes the file along."""
        with self.held():
            self._clear_column()
            others = set(range(MAX_ROUTERS)) - {self._column}
            if self._is_there() and all(map(self.is_gone, others)):
                with suppress(FileNotFoundError):
                    self._path.unlink()
        _lock(self._fd, fcntl.F_OFD_SETLK, self._column, fcntl.F_UNLCK)  # the map keeps it open
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
        """Names stand in the order in which they came."""
        for slot in range(MAX_KEYS):
            name = self._names[slot * NAME_BYTES : (slot + 1) * NAME_BYTES]
            if not any(name):
                name[:] = digest
            if name == digest:
                return slot
        return None


class SharedTally:
    """What one key has used at all routers that share the file."""

    def __init__(self, tallies: SharedTallies, counts: memoryview[float], column: int) -> None:
        self.requests: Cells = counts[:NUM_CELLS]
        self.tokens: Cells = counts[NUM_CELLS : 2 * NUM_CELLS]
        self._running = counts[2 * NUM_CELLS :]
        self._column = column
        self._tallies = tallies
        self.held = tallies.held

    def add_running(self, difference: int) -> None:
        """Only this router writes in its column."""
        self._running[self._column] += difference

    def num_running(self, limit: int) -> int:
        if sum(self._running) >= limit:
            for column, count in enumerate(self._running):
                if count and self._tallies.is_gone(column):
                    self._running[column] = 0.0
        return int(sum(self._running))


def path_for(*identity: object) -> Path:
    """Where those meet who serve the same port with the same keys; in memory, where that is."""
    memory = Path("/dev/shm")
    folder = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    boot = _BOOT_ID.read_text() if _BOOT_ID.exists() else ""
    meeting = repr((boot, os.geteuid(), _SHAPE, identity))
    named = hashlib.blake2b(meeting.encode(), digest_size=8)
    return folder / f"tandem-keys-{named.hexdigest()}"


def _open(path: Path) -> int:
    """A file of this user's."""
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
    """Takes the lock on a byte, for as long as the file is open, or asks whether it is free."""
    wanted = struct.pack("hhqqi0q", kind, os.SEEK_SET, byte, 1, 0)
    try:
        found = fcntl.fcntl(fd, command, wanted)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    assert isinstance(found, bytes)
    return command == fcntl.F_OFD_SETLK or struct.unpack("hhqqi0q", found)[0] == fcntl.F_UNLCK
