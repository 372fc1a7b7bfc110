"""The writing end of a rank pair over NIXL: its agent, and the writes under way.

Requests are made by NIXL's bindings and not by their Python wrapper, which would add a quarter to
the cost of a small write.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kv_transfer.errors import BadPeer, LinkFailed
from kv_transfer.layout.region import CacheRegion
from kv_transfer.layout.spans import Offsets
from kv_transfer.transports.nixl.agent import NIXL_ERRORS, described
from kv_transfer.transports.nixl.bindings import nixl_bindings
from kv_transfer.transports.nixl.pool import RegisteredPool, mem_type_of, rows
from kv_transfer.transports.transport import PostedTransfer
from wire.reports import Traffic

_WRITE = nixl_bindings.NIXL_WRITE
# Numbers, because comparing the bindings' own states takes as long as releasing a request.
_DONE = nixl_bindings.NIXL_SUCCESS.value
_UNDER_WAY = nixl_bindings.NIXL_IN_PROG.value


class NixlTransfer:
    """A posted write that is under way; its agent advances it whenever it is polled."""

    __slots__ = ("_over", "_writes", "handle")

    def __init__(self, writes: NixlWrites, handle: int) -> None:
        self.handle = handle
        self._writes = writes
        self._over = False

    def done(self) -> bool:
        self._over = self._over or self._writes.has_arrived(self)
        return self._over


class ArrivedTransfer:
    """A write that had ended when it was posted, as happens with direct access to the peer."""

    __slots__ = ()

    def done(self) -> bool:
        return True


_ARRIVED = ArrivedTransfer()


class NixlWrites:
    """All writes over one rank pair, which owns its agent.

    With `counts`, the agent must keep telemetry.
    """

    def __init__(
        self, pair: str, agent: Any, ours: RegisteredPool, theirs: RegisteredPool, *, counts: bool
    ) -> None:
        self.pair = pair
        self._agent: Any = agent
        self._bindings: Any = agent.agent
        self._ours = ours
        self._theirs = theirs
        self._counts = counts
        self._num_writes = self._num_bytes = self._num_descriptors = 0
        self._post_us = self._fabric_us = 0
        self._posted: set[NixlTransfer] = set()

    def open(self, metadata: bytes, descriptors: Any) -> None:
        """Connect to the peer's agent; `descriptors` are those of our pool. Raises NIXL_ERRORS."""
        remote = self._agent.add_remote_agent(metadata)
        self._remote = remote.decode() if isinstance(remote, bytes) else remote
        theirs = self._theirs
        prepare = self._agent.prep_xfer_dlist
        self._blocks = prepare("NIXL_INIT_AGENT", descriptors, self._ours.mem_type)
        self._remote_blocks = prepare(self._remote, theirs.descriptors(), theirs.mem_type)

    def write(self, blocks: Sequence[int], remote_blocks: Sequence[int]) -> PostedTransfer:
        if self._ours.block_bytes != self._theirs.block_bytes:
            sizes = f"{self._theirs.block_bytes} bytes, ours have {self._ours.block_bytes}"
            raise BadPeer(f"{self.pair} has blocks of {sizes}")
        ours, theirs = self._blocks._handle, self._remote_blocks._handle
        try:
            handle = self._bindings.makeXferReq(_WRITE, ours, blocks, theirs, remote_blocks)
        except NIXL_ERRORS as error:
            raise self._failed(error) from error
        return self._started(handle)

    def write_spans(self, region: CacheRegion, spans: Offsets) -> PostedTransfer:
        mem_type, device_id = mem_type_of(region.device)
        theirs, sizes = self._theirs, spans[:, 2]
        sources = rows(region.address + spans[:, 0], sizes, device_id)
        targets = rows(theirs.address + spans[:, 1], sizes, theirs.device_id)
        try:
            handle = self._bindings.createXferReq(
                _WRITE,
                self._agent.get_xfer_descs(sources, mem_type),
                self._agent.get_xfer_descs(targets, theirs.mem_type),
                self._remote,
            )
        except NIXL_ERRORS as error:
            raise self._failed(error) from error
        return self._started(handle)

    def has_arrived(self, transfer: NixlTransfer) -> bool:
        """To be called until it returns true; raises LinkFailed when the write has failed."""
        if self._bindings is None:
            raise LinkFailed(f"{self.pair} was disconnected")
        try:
            state = self._bindings.getXferStatus(transfer.handle).value
            if state == _UNDER_WAY:
                return False
            if state != _DONE:
                raise LinkFailed(f"write to {self.pair} ended in error")
            self._end(transfer.handle)
        except NIXL_ERRORS as error:
            raise self._failed(error) from error
        self._posted.discard(transfer)
        return True

    def traffic(self) -> Traffic | None:
        """Traffic that has arrived so far; None without telemetry. Thread-safe."""
        if not self._counts:
            return None
        return Traffic(
            num_writes=self._num_writes,
            num_bytes=self._num_bytes,
            num_descriptors=self._num_descriptors,
            post_s=self._post_us / 1e6,
            fabric_s=self._fabric_us / 1e6,
        )

    def destroy(self) -> None:
        """End all writes under way: the agent ends with its last reference."""
        for transfer in self._posted:
            self._let_go(transfer.handle)
        self._posted.clear()
        self._blocks = self._remote_blocks = self._bindings = self._agent = None

    def _started(self, handle: int) -> PostedTransfer:
        try:
            if self._bindings.postXferReq(handle).value == _DONE:
                self._end(handle)
                return _ARRIVED
        except NIXL_ERRORS as error:
            self._let_go(handle)
            raise self._failed(error) from error
        transfer = NixlTransfer(self, handle)
        self._posted.add(transfer)
        return transfer

    def _end(self, handle: int) -> None:
        if self._counts:
            self._count(handle)
        self._bindings.releaseXferReq(handle)

    def _count(self, handle: int) -> None:
        """NIXL counts in whole microseconds; merged neighbours are one descriptor."""
        try:
            found = self._bindings.getXferTelemetry(handle)
        except nixl_bindings.nixlNoTelemetryError:
            self._counts = False  # NIXL_TELEMETRY_ENABLE=n overrides what an agent asks for
            return
        self._num_writes += 1
        self._num_bytes += found.totalBytes
        self._num_descriptors += found.descCount
        self._post_us += found.postDuration
        self._fabric_us += found.xferDuration

    def _let_go(self, handle: int) -> None:
        with suppress(*NIXL_ERRORS):
            self._bindings.releaseXferReq(handle)

    def _failed(self, error: BaseException) -> LinkFailed:
        return LinkFailed(f"write to {self.pair}: {described(error)}")
