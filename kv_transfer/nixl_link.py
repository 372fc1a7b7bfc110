"""Blocks over NIXL: RDMA, NVLink, shared memory or TCP, as UCX finds. Nobody else imports nixl.

Every link has an agent of its own, at either end. An agent costs some 15 ms, 5 MB and a thread
that sleeps; in return, destroying it ends everything that goes over the link, without any other
link's noticing. There is no lesser way: over TCP, a transfer that was released goes on writing,
and neither deregistration nor removing the remote agent stops it.

Descriptor lists of whole pools are prepared once per link, so that a write costs one index array;
neighbouring blocks merge into one operation when their order is the same on both sides.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nixl_cu12 import _api as nixl_api
from nixl_cu12 import _bindings as nixl_bindings

from kv_transfer.region import CacheRegion
from kv_transfer.reshard import Offsets
from kv_transfer.transport import BadPeer, LinkFailed, Transfer

PROGRESS_DELAY_US = 5000
"""How long an idle agent sleeps; events of the fabric wake it. The wrapper's 0 spins on a core."""

FABRIC_ONLY = {"self", "tcp", "ib", "rc", "rc_x", "rc_v", "rc_mlx5", "ud", "ud_x", "dc", "dc_x"}
"""UCX transports by which no process reaches into another's memory by itself."""

_DIGEST_BYTES = 16
# Every error of the bindings ends in nixl…Error and derives from Exception alone.
_NIXL_ERRORS = tuple(kind for name, kind in vars(nixl_bindings).items() if name.endswith("Error"))


class NixlTransfer:
    """One posted write that is under way; its agent drives it whenever it is polled."""

    __slots__ = ("_handle", "_link", "_state")

    def __init__(self, link: _Outbound, handle: Any, state: str) -> None:
        self._link = link
        self._handle = handle
        self._state = state

    def done(self) -> bool:
        if self._state == "PROC":
            self._state = self._link.look(self._handle)
        if self._state == "ERR":
            raise LinkFailed(f"write to {self._link.peer} ended in error")
        if self._state == "DONE" and self._handle is not None:
            self._handle.release()
            self.let_go()
        return self._state == "DONE"

    def let_go(self) -> None:
        """Handles keep their agent alive."""
        self._handle = None
        self._link.posted.discard(self)


class ArrivedTransfer:
    """One that was over when it had been posted, as direct access to the peer's memory makes it."""

    __slots__ = ()

    def done(self) -> bool:
        return True


_ARRIVED = ArrivedTransfer()


@dataclass(frozen=True, slots=True)
class _Pool:
    """A pool as its owner describes it to a peer."""

    mem_type: str
    address: int
    num_blocks: int
    block_bytes: int
    device_id: int

    def descriptors(self) -> Any:
        """One (address, length, device) row for each block: uint64 [num_blocks, 3]."""
        rows = np.empty((self.num_blocks, 3), np.uint64)
        places = np.arange(self.num_blocks, dtype=np.uint64)
        rows[:, 0] = self.address + places * np.uint64(self.block_bytes)
        rows[:, 1] = self.block_bytes
        rows[:, 2] = self.device_id
        return rows

    def packed(self) -> bytes:
        sizes = [self.address, self.num_blocks, self.block_bytes, self.device_id]
        return self.mem_type.encode() + np.array(sizes, np.uint64).tobytes()

    @staticmethod
    def unpacked(body: bytes) -> tuple[_Pool, bytes]:
        sizes = [int(size) for size in np.frombuffer(body[4:36], np.uint64)]
        return _Pool(body[:4].decode(), *sizes), body[36:]


class NixlLink:
    """Implements `kv_transfer.transport.Transport` with NIXL agents over UCX.

    `ucx_env` are UCX settings such as UCX_NET_DEVICES or UCX_TLS; UCX reads them when an agent is
    made. All agents are driven from one thread, and the process never forks after.
    """

    name = "nixl"

    def __init__(self, own_name: str, ucx_env: dict[str, str] | None = None) -> None:
        os.environ.setdefault("UCX_LOG_FILE", "stderr")  # otherwise it writes to standard output
        # Otherwise an agent's own thread spins on UCX's lock for as long as a write copies.
        os.environ.setdefault("UCX_USE_MT_MUTEX", "y")
        os.environ.update(ucx_env or {})
        self._own_name = own_name
        self._num_agents = 0
        self._spare: Any = self._new_agent()  # the first takes long, and shows whether UCX works
        self._inbound: dict[str, Any] = {}
        self._outbound: dict[str, _Outbound] = {}

    @property
    def direct_access(self) -> bool:
        chosen = os.environ.get("UCX_TLS", "all")
        return chosen.startswith("^") or not set(chosen.split(",")) <= FABRIC_ONLY

    def register(
        self, pool: CacheRegion, num_blocks: int, staging: CacheRegion | None = None
    ) -> None:
        mem_type, device_id = _mem_type(pool.device)
        size = pool.num_bytes // num_blocks
        self._regions = [pool] if staging is None else [pool, staging]
        self._pool = _Pool(mem_type, pool.address, num_blocks, size, device_id)
        self._descriptors = self._pool.descriptors()

    def admit(self, peer: str) -> bytes:
        """The agent's metadata behind a digest (flipped bytes are otherwise often accepted)."""
        self.evict(peer)
        agent = self._take_agent(self._regions[:1])
        self._inbound[peer] = agent
        body = self._pool.packed() + agent.get_agent_metadata()
        return bytes(hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() + body)

    def evict(self, peer: str) -> None:
        # The last reference: this destroys the agent, with its connections and registrations.
        self._inbound.pop(peer, None)

    def connect(self, peer: str, admission: bytes) -> None:
        self.disconnect(peer)
        theirs, metadata = _unpack(peer, admission)
        agent = self._take_agent(self._regions)
        try:
            self._outbound[peer] = _Outbound(peer, agent, self._pool, self._descriptors, theirs)
            self._outbound[peer].open(metadata)
        except _NIXL_ERRORS as error:
            self.disconnect(peer)
            raise LinkFailed(f"connect to {peer}: {_name(error)}") from error

    def write(self, peer: str, blocks: Sequence[int], pages: Sequence[int]) -> Transfer:
        return self._link(peer).write(blocks, pages)

    def write_spans(self, peer: str, spans: Offsets, *, staged: bool) -> Transfer:
        return self._link(peer).write_spans(self._regions[staged], spans)

    def disconnect(self, peer: str) -> None:
        link = self._outbound.pop(peer, None)
        if link is not None:
            link.destroy()

    def close(self) -> None:
        for peer in list(self._outbound):
            self.disconnect(peer)
        self._inbound.clear()
        self._spare = None

    def _link(self, peer: str) -> _Outbound:
        if peer not in self._outbound:
            raise LinkFailed(f"{peer} is not connected")
        return self._outbound[peer]

    def _take_agent(self, regions: list[CacheRegion]) -> Any:
        agent, self._spare = self._spare or self._new_agent(), None
        for region in regions:
            mem_type, device_id = _mem_type(region.device)
            agent.register_memory([(region.address, region.num_bytes, device_id, "")], mem_type)
        return agent

    def _new_agent(self) -> Any:
        self._num_agents += 1
        return _make_agent(f"{self._own_name}/{self._num_agents}")


class _Outbound:
    """Our end of one link: an agent that writes to one peer."""

    def __init__(self, peer: str, agent: Any, ours: _Pool, descriptors: Any, theirs: _Pool) -> None:
        self.peer = peer
        self._agent: Any = agent
        self._ours = ours
        self._theirs = theirs
        self._descriptors = descriptors
        self.posted: set[NixlTransfer] = set()

    def open(self, metadata: bytes) -> None:
        remote = self._agent.add_remote_agent(metadata)
        self._remote = remote.decode() if isinstance(remote, bytes) else remote
        ours, theirs = self._ours, self._theirs
        self._blocks = self._prepare("NIXL_INIT_AGENT", self._descriptors, ours.mem_type)
        self._pages = self._prepare(self._remote, theirs.descriptors(), theirs.mem_type)

    def write(self, blocks: Sequence[int], pages: Sequence[int]) -> Transfer:
        if self._ours.block_bytes != self._theirs.block_bytes:
            sizes = f"{self._theirs.block_bytes} bytes, ours have {self._ours.block_bytes}"
            raise BadPeer(f"{self.peer} has blocks of {sizes}")
        try:
            return self._started(
                self._agent.make_prepped_xfer("WRITE", self._blocks, blocks, self._pages, pages)
            )
        except _NIXL_ERRORS as error:
            raise LinkFailed(f"write to {self.peer}: {_name(error)}") from error

    def write_spans(self, region: CacheRegion, spans: Offsets) -> Transfer:
        mem_type, device_id = _mem_type(region.device)
        ours = self._rows(region.address + spans[:, 0], spans[:, 2], device_id)
        theirs = self._rows(self._theirs.address + spans[:, 1], spans[:, 2], self._theirs.device_id)
        try:
            handle = self._agent.initialize_xfer(
                "WRITE",
                self._agent.get_xfer_descs(ours, mem_type),
                self._agent.get_xfer_descs(theirs, self._theirs.mem_type),
                self._remote,
            )
            return self._started(handle)
        except _NIXL_ERRORS as error:
            raise LinkFailed(f"write to {self.peer}: {_name(error)}") from error

    def look(self, handle: Any) -> str:
        if self._agent is None:
            raise LinkFailed(f"{self.peer} was disconnected")
        try:
            return str(self._agent.check_xfer_state(handle))
        except _NIXL_ERRORS as error:
            raise LinkFailed(f"write to {self.peer}: {_name(error)}") from error

    def destroy(self) -> None:
        for transfer in list(self.posted):
            transfer.let_go()
        self._blocks = self._pages = self._agent = None

    def _started(self, handle: Any) -> Transfer:
        state = self._agent.transfer(handle)
        if state == "DONE":
            handle.release()
            return _ARRIVED
        transfer = NixlTransfer(self, handle, state)
        self.posted.add(transfer)
        return transfer

    def _prepare(self, agent_name: str, descriptors: Any, mem_type: str) -> Any:
        return self._agent.prep_xfer_dlist(agent_name, descriptors, mem_type)

    @staticmethod
    def _rows(addresses: Any, sizes: Any, device_id: int) -> Any:
        rows = np.empty((len(sizes), 3), np.uint64)
        rows[:, 0], rows[:, 1], rows[:, 2] = addresses, sizes, device_id
        return rows


def _make_agent(name: str) -> Any:
    _log_like_everybody_else()
    config = nixl_api.nixl_agent_config(
        backends=["UCX"], sync_mode=nixl_api.nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT
    )
    original = nixl_api.nixlBind
    nixl_api.nixlBind = _PatientBindings(original)
    try:
        return nixl_api.nixl_agent(name, config)
    finally:
        nixl_api.nixlBind = original


def _log_like_everybody_else() -> None:
    """The wrapper writes its log to standard output, where it would mix with ours."""
    logger = logging.getLogger("nixl")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.WARNING)


class _PatientBindings:
    """The bindings, with a progress thread that sleeps between events."""

    def __init__(self, bindings: Any) -> None:
        self._bindings = bindings

    def nixlAgent(self, name: str, config: Any) -> Any:
        config.pthrDelay = PROGRESS_DELAY_US
        return self._bindings.nixlAgent(name, config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bindings, name)


def _mem_type(device: str) -> tuple[str, int]:
    if device == "cpu":
        return "DRAM", 0
    return "VRAM", int(device.partition(":")[2] or 0)


def _unpack(peer: str, admission: bytes) -> tuple[_Pool, bytes]:
    digest, body = admission[:_DIGEST_BYTES], admission[_DIGEST_BYTES:]
    if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
        raise BadPeer(f"admission by {peer} is damaged ({len(admission)} bytes)")
    return _Pool.unpacked(body)


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
