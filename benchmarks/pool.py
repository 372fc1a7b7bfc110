"""A raw block pool, ours or that of a peer process, to write into."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from kv_transfer.nixl_link import NixlLink
from kv_transfer.region import CacheRegion

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = {"UCX_NET_DEVICES": "lo"}


def a_pool(num_bytes: int) -> tuple[npt.NDArray[np.uint8], CacheRegion]:
    """Touched memory, in huge pages where the machine gives them."""
    memory = mmap.mmap(-1, num_bytes)
    memory.madvise(mmap.MADV_HUGEPAGE)
    pool = np.frombuffer(memory, np.uint8)
    pool[:] = 1
    return pool, CacheRegion(pool.ctypes.data, num_bytes, "cpu", memory)


class PeerPool:
    """A pool of another process, which waits until its input is closed."""

    def __init__(self, num_bytes: int, num_blocks: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.pool", str(num_bytes), str(num_blocks)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._input: IO[str] = self.process.stdin
        self.admission = bytes.fromhex(self.process.stdout.readline())

    def close(self) -> None:
        self._input.close()
        self.process.wait(timeout=30)


def main() -> None:
    num_bytes, num_blocks = int(sys.argv[1]), int(sys.argv[2])
    _, region = a_pool(num_bytes)
    link = NixlLink("peer", LOOPBACK)
    link.register(region, num_blocks)
    print(link.admit("bench").hex(), flush=True)
    sys.stdin.read()
    link.close()


if __name__ == "__main__":
    main()
