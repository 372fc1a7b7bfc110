"""The transport over UCX without NIXL, by two-sided messages; for host memory only.

ucxx has no remote writes. So a write is sent in frames, which a thread of the receiving process
copies into its pool and then acknowledges. Only this thread writes to the pool: peers have no
direct access to it, and nothing lands through a receive end that is closed.

Every rank pair has a UCX worker of its own, at either end. Destroying it ends all writes of the
rank pair; the other end sees its peer dead.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
from collections.abc import Sequence

from kv_transfer.errors import BadPeer, LinkFailed, TransferError
from kv_transfer.layout.region import CacheRegion
from kv_transfer.layout.spans import Offsets, block_spans
from kv_transfer.transports.ucx.frames import view
from kv_transfer.transports.ucx.receiver import ReceiveEnd, ReceiveThread
from kv_transfer.transports.ucx.sender import SendEnd, UcxTransfer
from kv_transfer.transports.ucx.ucx_worker import UcxError, UcxWorker, make_context

_KIND = b"ucx1"
_HASH_BYTES = 16
_NUMBERS = struct.Struct("<QQ")


class UcxTransport:
    """Implements `Transport` with a UCX worker for each end of a rank pair.

    `ucx_env` are UCX settings such as UCX_NET_DEVICES. The process must not fork afterwards.
    """

    name = "ucx"
    direct_access = False

    def __init__(self, own_name: str, ucx_env: dict[str, str] | None = None) -> None:
        os.environ.update(ucx_env or {})
        self._context = make_context()
        self._receive_thread = ReceiveThread(own_name)
        self._admitted: dict[str, ReceiveEnd] = {}
        self._outbound: dict[str, SendEnd] = {}

    def register(
        self, pool: CacheRegion, num_blocks: int, staging: CacheRegion | None = None
    ) -> None:
        """Raises TransferError for memory of a device."""
        regions = [pool] if staging is None else [pool, staging]
        for region in regions:
            if region.device != "cpu":
                raise TransferError(f"ucx carries host memory only, not that of {region.device}")
        self._regions = regions  # they keep the memory alive
        self._memories = [view(region) for region in regions]
        self._block_bytes = pool.num_bytes // num_blocks

    def admit(self, pair: str) -> bytes:
        """A hash of what follows: kind, token, bytes of a block, address of the end's worker."""
        self.evict(pair)
        token = secrets.randbits(64)
        end = self._receive_thread.open(pair, token, self._memories[0])
        self._admitted[pair] = end
        body = _KIND + _NUMBERS.pack(token, self._block_bytes) + end.address
        return _hash(body) + body

    def evict(self, pair: str) -> None:
        end = self._admitted.pop(pair, None)
        if end is not None:
            self._receive_thread.shut(end)

    def connect(self, pair: str, admission: bytes) -> None:
        self.disconnect(pair)
        token, block_bytes, address = _unpack(pair, admission)
        try:
            end = SendEnd(pair, UcxWorker(self._context, token), block_bytes)
            self._outbound[pair] = end
            end.open(address)
        except (LinkFailed, UcxError) as error:
            self.disconnect(pair)
            raise LinkFailed(f"connect to {pair}: {error}") from error

    def write(self, pair: str, blocks: Sequence[int], remote_blocks: Sequence[int]) -> UcxTransfer:
        size, theirs = self._block_bytes, self._end(pair).block_bytes
        if size != theirs:
            raise BadPeer(f"{pair} has blocks of {theirs} bytes, ours have {size}")
        return self.write_spans(pair, block_spans(blocks, remote_blocks, size), staged=False)

    def write_spans(self, pair: str, spans: Offsets, *, staged: bool) -> UcxTransfer:
        return self._end(pair).write(self._memories[staged], spans)

    def disconnect(self, pair: str) -> None:
        end = self._outbound.pop(pair, None)
        if end is not None:
            end.destroy("disconnected")

    def close(self) -> None:
        for pair in list(self._outbound):
            self.disconnect(pair)
        for pair in list(self._admitted):
            self.evict(pair)
        self._receive_thread.close()

    def _end(self, pair: str) -> SendEnd:
        end = self._outbound.get(pair)
        if end is None:
            raise LinkFailed(f"{pair} is not connected")
        if end.cause is not None:
            raise LinkFailed(f"{pair}: {end.cause}")
        return end


def _hash(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_HASH_BYTES).digest()


def _unpack(pair: str, admission: bytes) -> tuple[int, int, bytes]:
    """Token, bytes of a block, address of the receive end's worker. Raises BadPeer."""
    found, body = admission[:_HASH_BYTES], admission[_HASH_BYTES:]
    if _hash(body) != found or not body.startswith(_KIND):
        raise BadPeer(f"admission by {pair} is damaged ({len(admission)} bytes)")
    token, block_bytes = _NUMBERS.unpack_from(body, len(_KIND))
    return token, block_bytes, body[len(_KIND) + _NUMBERS.size :]
