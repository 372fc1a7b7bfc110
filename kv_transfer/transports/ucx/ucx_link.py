"""Blocks over UCX without NIXL, by messages of two sides.

ucxx knows no remote writes. So a write travels as frames, which a thread of the receiving process
copies into its pool and then acknowledges. Nobody but this thread ever touches the pool: peers have
no direct access to it, and a door that is shut lets nothing in any more.

Every link has a worker of its own, at either end. Destroying it ends all that goes over the link,
and the other end hears of it as of a death. Only host memory is carried.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from kv_transfer.errors import BadPeer, LinkFailed, TransferError
from kv_transfer.layout.region import CacheRegion
from kv_transfer.layout.spans import Offsets, block_spans
from kv_transfer.transports.ucx.frames import PARCEL_BYTES, Bytes, pack, split_frames, view
from kv_transfer.transports.ucx.receiver import GREETING, ReceiveEnd, ReceiveThread
from kv_transfer.transports.ucx.ucx_worker import UcxError, UcxWorker, describe, make_context

CONNECT_S = 2.0
"""How long a peer may take to answer a greeting."""

SETTLE_S = 0.1
"""How long `disconnect` waits for frames to leave. A stopped peer does not take them."""

NUM_UNDER_WAY = 4
"""Parcels of one link that are sent and not yet acknowledged: one is packed while others travel."""

_KIND = b"ucx1"
_DIGEST_BYTES = 16
_NUMBERS = struct.Struct("<QQ")


class UcxTransfer:
    """One write; its link drives it whenever it is polled."""

    def __init__(self, link: _OutboundEnd, memory: Bytes, spans: Offsets) -> None:
        self._link = link
        self.memory = memory
        self.parts = deque(split_frames(spans))
        self.num_under_way = 0
        self.cause: str | None = None

    @property
    def landed(self) -> bool:
        return not self.parts and not self.num_under_way and self.cause is None

    def done(self) -> bool:
        if not self.landed:
            self._link.turn()
        if not self.landed and (self.cause or self._link.cause):
            raise LinkFailed(f"write to {self._link.peer}: {self.cause or self._link.cause}")
        return self.landed


class UcxLink:
    """Implements `Transport` with a UCX worker for each end of a link.

    `ucx_env` are UCX settings such as UCX_NET_DEVICES. The process never forks after.
    """

    name = "ucx"
    direct_access = False

    def __init__(self, own_name: str, ucx_env: dict[str, str] | None = None) -> None:
        os.environ.update(ucx_env or {})
        self._context = make_context()
        self._porter = ReceiveThread(own_name)
        self._admitted: dict[str, ReceiveEnd] = {}
        self._outbound: dict[str, _OutboundEnd] = {}

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

    def admit(self, peer: str) -> bytes:
        """A digest, then: kind, token, bytes of a block, address of the door's worker."""
        self.evict(peer)
        token = secrets.randbits(64)
        door = self._admitted[peer] = self._porter.open(peer, token, self._memories[0])
        body = _KIND + _NUMBERS.pack(token, self._block_bytes) + door.address
        return _digest(body) + body

    def evict(self, peer: str) -> None:
        door = self._admitted.pop(peer, None)
        if door is not None:
            self._porter.shut(door)

    def connect(self, peer: str, admission: bytes) -> None:
        self.disconnect(peer)
        token, block_bytes, address = _unpack(peer, admission)
        try:
            link = _OutboundEnd(peer, UcxWorker(self._context, token), block_bytes)
            self._outbound[peer] = link
            link.open(address)
        except (LinkFailed, UcxError) as error:
            self.disconnect(peer)
            raise LinkFailed(f"connect to {peer}: {error}") from error

    def write(self, peer: str, blocks: Sequence[int], pages: Sequence[int]) -> UcxTransfer:
        size, theirs = self._block_bytes, self._link(peer).block_bytes
        if size != theirs:
            raise BadPeer(f"{peer} has blocks of {theirs} bytes, ours have {size}")
        return self.write_spans(peer, block_spans(blocks, pages, size), staged=False)

    def write_spans(self, peer: str, spans: Offsets, *, staged: bool) -> UcxTransfer:
        return self._link(peer).write(self._memories[staged], spans)

    def disconnect(self, peer: str) -> None:
        link = self._outbound.pop(peer, None)
        if link is not None:
            link.destroy("disconnected")

    def close(self) -> None:
        for peer in list(self._outbound):
            self.disconnect(peer)
        for peer in list(self._admitted):
            self.evict(peer)
        self._porter.close()

    def _link(self, peer: str) -> _OutboundEnd:
        link = self._outbound.get(peer)
        if link is None:
            raise LinkFailed(f"{peer} is not connected")
        if link.cause is not None:
            raise LinkFailed(f"{peer}: {link.cause}")
        return link


class _Slot:
    """Room for one frame under way: free while it has no transfer."""

    def __init__(self) -> None:
        self.frame = np.empty(PARCEL_BYTES, np.uint8)
        self.request: Any = None
        self.transfer: UcxTransfer | None = None
        self.acknowledged = False


class _OutboundEnd:
    """Our end of a link to one peer; driven by the thread that writes."""

    def __init__(self, peer: str, worker: UcxWorker, block_bytes: int) -> None:
        self.peer = peer
        self.block_bytes = block_bytes
        self.cause: str | None = None
        self._worker = worker
        self._slots = [_Slot() for _ in range(NUM_UNDER_WAY)]
        self._waiting: deque[UcxTransfer] = deque()
        self._answer = np.empty(2, np.int64)
        self._answered = worker.receive(self._answer)
        self._greeted = False

    def open(self, address: bytes) -> None:
        """Tell the peer where to answer, and wait until it does. Raises LinkFailed or UcxError."""
        self._worker.connect(address)
        self._send_greeting()
        deadline = time.monotonic() + CONNECT_S
        while not self._greeted:
            self.turn()
            if time.monotonic() > deadline:
                self.cause = f"no answer within {CONNECT_S} s"
            if self.cause is not None:
                raise LinkFailed(self.cause)
            time.sleep(0.0001)

    def write(self, memory: Bytes, spans: Offsets) -> UcxTransfer:
        transfer = UcxTransfer(self, memory, spans)
        self._waiting.append(transfer)
        self.turn()
        return transfer

    def turn(self) -> None:
        """Let go what has arrived, and send what there is room for."""
        if self.cause is not None:
            return
        try:
            self._worker.progress()
            self._take_answers()
            self._free_slots()
            self._fill_slots()
        except UcxError as error:
            self.cause = describe(error)
        if self.cause is None and not self._worker.alive:
            self.cause = "the peer is gone"

    def destroy(self, cause: str) -> None:
        self.cause = self.cause or cause
        self._waiting.clear()
        self._settle()
        self._worker.hang_up()
        for slot in self._slots:
            slot.request = slot.transfer = None
        # Last the worker, and only then the memory of the slots.
        del self._answered, self._worker

    def _settle(self) -> None:
        """Let the frames under way leave, because that spares us a worker (see `hang_up`)."""
        deadline = time.monotonic() + SETTLE_S
        requests = [slot.request for slot in self._slots if slot.request is not None]
        while not all(request.completed for request in requests) and time.monotonic() < deadline:
            self._worker.progress()

    def _send_greeting(self) -> None:
        """Length and content of our worker's address."""
        address = self._worker.address
        greeting = len(address).to_bytes(2, "little") + address
        frame = self._slots[0].frame[: len(greeting)]
        frame[:] = np.frombuffer(greeting, np.uint8)
        # It is answered before slot 0 is used again.
        self._slots[0].request = self._worker.send(frame, greeting=True)

    def _take_answers(self) -> None:
        while self._answered.completed:
            self._answered.check_error()
            number, refused = self._answer.tolist()
            self._answered = self._worker.receive(self._answer)
            if number == GREETING:
                self._greeted = True
            elif 0 <= number < NUM_UNDER_WAY:
                self._take_answer(self._slots[number], refused)
            else:
                self.cause = f"the peer answers to frame {number}"

    def _take_answer(self, slot: _Slot, refused: int) -> None:
        slot.acknowledged = True
        if refused and slot.transfer is not None:
            slot.transfer.cause = "refused: it leads outside the peer's pool"
            slot.transfer.parts.clear()

    def _free_slots(self) -> None:
        for slot in self._slots:
            if slot.transfer is None or not slot.request.completed:
                continue
            slot.request.check_error()
            if slot.acknowledged:
                slot.transfer.num_under_way -= 1
                slot.request = slot.transfer = None

    def _fill_slots(self) -> None:
        for number, slot in enumerate(self._slots):
            while self._waiting and not self._waiting[0].parts:
                self._waiting.popleft()
            if self._waiting and slot.transfer is None:
                self._send(number, slot, self._waiting[0])

    def _send(self, number: int, slot: _Slot, transfer: UcxTransfer) -> None:
        frame = pack(number, transfer.memory, transfer.parts.popleft(), slot.frame)
        slot.transfer, slot.acknowledged = transfer, False
        transfer.num_under_way += 1
        slot.request = self._worker.send(frame)


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _unpack(peer: str, admission: bytes) -> tuple[int, int, bytes]:
    """Token, bytes of a block, address of the door's worker. Raises BadPeer."""
    digest, body = admission[:_DIGEST_BYTES], admission[_DIGEST_BYTES:]
    if _digest(body) != digest or not body.startswith(_KIND):
        raise BadPeer(f"admission by {peer} is damaged ({len(admission)} bytes)")
    token, block_bytes = _NUMBERS.unpack_from(body, len(_KIND))
    return token, block_bytes, body[len(_KIND) + _NUMBERS.size :]
