"""A process with a block pool that others write into: the peer in the tests of `UcxTransport`.

Obeys one line of JSON after the other: ["admit", peer] answers with the admission as hex,
["evict", peer] with null, ["values", block] with the distinct bytes of that block, sorted,
["clear", 0] with null when the pool is zeros again;
["join", admission] connects to "us", and ["flood", 0] writes all blocks there until that fails.
"""

from __future__ import annotations

import json
import mmap
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from kv_transfer.errors import LinkFailed
from kv_transfer.layout.region import CacheRegion
from kv_transfer.transports.ucx.frames import view
from kv_transfer.transports.ucx.ucx_transport import UcxTransport

NUM_BLOCKS = 64
BLOCK_BYTES = 256 * 1024


def host_pool(num_blocks: int) -> CacheRegion:
    """Zeros."""
    memory = mmap.mmap(-1, num_blocks * BLOCK_BYTES)
    address = np.frombuffer(memory, np.uint8).ctypes.data
    return CacheRegion(address, len(memory), "cpu", memory)


def flood(link: UcxTransport) -> str:
    blocks = range(NUM_BLOCKS)
    while True:
        try:
            transfer = link.write("us", blocks, blocks)
            while not transfer.done():
                pass
        except LinkFailed as error:
            return str(error)


def main() -> None:
    pool = host_pool(NUM_BLOCKS)
    blocks = view(pool).reshape(NUM_BLOCKS, BLOCK_BYTES)
    link = UcxTransport("peer", json.loads(sys.argv[1]))
    link.register(pool, NUM_BLOCKS)
    answers: dict[str, Callable[[Any], object]] = {
        "admit": lambda peer: link.admit(peer).hex(),
        "evict": lambda peer: link.evict(peer),
        "join": lambda admission: link.connect("us", bytes.fromhex(admission)),
        "flood": lambda _: flood(link),
        "clear": lambda _: blocks.fill(0),
        "values": lambda block: np.unique(blocks[block]).tolist(),
    }
    for line in sys.stdin:
        order, argument = json.loads(line)
        print(json.dumps(answers[order](argument)), flush=True)
    link.close()


if __name__ == "__main__":
    main()
