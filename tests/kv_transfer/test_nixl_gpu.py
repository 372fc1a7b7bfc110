"""Blocks in a GPU's memory, over NIXL; tests/stub_gpu does the same without one."""

from __future__ import annotations

import os
import time
from contextlib import closing

import numpy as np
import pytest
import torch
from torch import Tensor

from kv_transfer.layout.region import CacheRegion
from kv_transfer.transports.nixl.nixl_transport import NixlTransport
from kv_transfer.transports.transport import PostedTransfer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda:0"
NUM_BLOCKS, BLOCK_BYTES = 16, 2 << 20
LOOPBACK = {"UCX_NET_DEVICES": "lo"}


def a_pool() -> tuple[Tensor, CacheRegion]:
    pool = torch.zeros((NUM_BLOCKS, BLOCK_BYTES), dtype=torch.uint8, device=DEVICE)
    return pool, CacheRegion(pool.data_ptr(), pool.nbytes, DEVICE, pool)


def a_transport(name: str) -> NixlTransport:
    return NixlTransport(f"{name}-{os.getpid()}", LOOPBACK, device=DEVICE)


def finish(transfer: PostedTransfer) -> None:
    deadline = time.monotonic() + 60
    while not transfer.done():
        assert time.monotonic() < deadline, "the write does not end"


def test_blocks_and_staged_spans_arrive_on_the_gpu() -> None:
    (ours, pool), (staging, staged), (theirs, peer_pool) = a_pool(), a_pool(), a_pool()
    for block in range(NUM_BLOCKS):
        ours[block], staging[block] = 100 + block, 200 + block
    torch.cuda.synchronize()
    with closing(a_transport("us")) as transport, closing(a_transport("them")) as peer:
        transport.register(pool, NUM_BLOCKS, staged)
        peer.register(peer_pool, NUM_BLOCKS)
        transport.connect("peer", peer.admit("us"))
        finish(transport.write("peer", (1, 2, 9), (3, 4, 5)))
        span = np.array([[7 * BLOCK_BYTES, 8 * BLOCK_BYTES, 4096]])
        finish(transport.write_spans("peer", span, staged=True))
        assert [theirs[block].unique().tolist() for block in (3, 4, 5, 6)] == [
            [101],
            [102],
            [109],
            [0],
        ]
        assert theirs[8, :4096].unique().tolist() == [207]
        assert theirs[8, 4096:].unique().tolist() == [0]
