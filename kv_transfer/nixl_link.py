"""Blocks over NIXL: RDMA, NVLink, shared memory or TCP, as UCX finds. Nobody else imports nixl.

Descriptor lists of whole pools are prepared once per peer, so that a write costs one index array;
neighbouring blocks merge into one operation when their order is the same on both sides.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from nixl_cu12 import _api as nixl_api
from nixl_cu12 import _bindings as nixl_bindings

from kv_transfer.region import CacheRegion
from kv_transfer.transport import BadPeer, LinkFailed

PROGRESS_DELAY_US = 1000
"""The Python wrapper asks for 0, and then an idle agent spins on most of a core."""

_DIGEST_BYTES = 16
# Every error of the bindings ends in nixl…Error and derives from Exception alone.
_NIXL_ERRORS = tuple(kind for name, kind in vars(nixl_bindings).items() if name.endswith("Error"))


class NixlTransfer:
    """One posted write; the agent drives it whenever it is polled."""

    def __init__(self, agent: Any, peer: str, handle: Any, state: str) -> None:
        self._agent = agent
        self._peer = peer
        self._handle = handle
        self._state = state

    def done(self) -> bool:
        if self._state == "PROC":
            try:
                self._state = self._agent.check_xfer_state(self._handle)
            except _NIXL_ERRORS as error:
                raise LinkFailed(f"write to {self._peer}: {_name(error)}") from error
        if self._state == "ERR":
            raise LinkFailed(f"write to {self._peer} ended in error")
        if self._state == "DONE" and self._handle is not None:
            self._handle.release()
            self._handle = None
        return self._state == "DONE"


class NixlLink:
    """Implements `kv_transfer.transport.Transport` with one NIXL agent over UCX.

    `ucx_env` are UCX settings such as UCX_NET_DEVICES or UCX_TLS; UCX reads them once, when the
    agent is made. The agent must be driven from one thread, and the process never forks after.
    """

    name = "nixl"

    def __init__(self, own_name: str, ucx_env: dict[str, str] | None = None) -> None:
        os.environ.update(ucx_env or {})
        self._agent = _make_agent(own_name)
        self._peers: dict[str, tuple[str, Any]] = {}

    def register(self, region: CacheRegion, num_blocks: int) -> None:
        self._region = region
        self._num_blocks = num_blocks
        self._block_bytes = region.num_bytes // num_blocks
        self._mem_type, self._device_id = _mem_type(region.device)
        whole = [(region.address, region.num_bytes, self._device_id, "")]
        self._registration = self._agent.register_memory(whole, self._mem_type)
        descriptors = _descriptors(region.address, self._block_bytes, num_blocks, self._device_id)
        self._local = self._agent.prep_xfer_dlist("NIXL_INIT_AGENT", descriptors, self._mem_type)

    def metadata(self) -> bytes:
        """The agent's metadata behind a digest (flipped bytes are otherwise often accepted)."""
        pool = np.array(
            [self._region.address, self._num_blocks, self._block_bytes, self._device_id], np.uint64
        )
        body = self._mem_type.encode() + pool.tobytes() + self._agent.get_agent_metadata()
        return bytes(hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() + body)

    def connect(self, peer: str, metadata: bytes) -> None:
        if peer in self._peers:
            return
        mem_type, pool, agent_metadata = _unpack(peer, metadata)
        address, num_blocks, block_bytes, device_id = (int(n) for n in pool)
        if block_bytes != self._block_bytes:
            raise BadPeer(f"{peer} has blocks of {block_bytes} bytes, ours {self._block_bytes}")
        try:
            remote = self._agent.add_remote_agent(agent_metadata)
            remote = remote.decode() if isinstance(remote, bytes) else remote
            descriptors = _descriptors(address, block_bytes, num_blocks, device_id)
            pages = self._agent.prep_xfer_dlist(remote, descriptors, mem_type)
        except _NIXL_ERRORS as error:
            raise LinkFailed(f"connect to {peer}: {_name(error)}") from error
        self._peers[peer] = (remote, pages)

    def write(self, peer: str, blocks: Sequence[int], pages: Sequence[int]) -> NixlTransfer:
        if peer not in self._peers:
            raise LinkFailed(f"{peer} is not connected")
        _, remote_pages = self._peers[peer]
        try:
            handle = self._agent.make_prepped_xfer(
                "WRITE",
                self._local,
                np.array(blocks, np.int32),
                remote_pages,
                np.array(pages, np.int32),
            )
            state = self._agent.transfer(handle)
        except _NIXL_ERRORS as error:
            raise LinkFailed(f"write to {peer}: {_name(error)}") from error
        return NixlTransfer(self._agent, peer, handle, state)

    def disconnect(self, peer: str) -> None:
        entry = self._peers.pop(peer, None)
        if entry is None:
            return
        remote, pages = entry
        # The agent has already forgotten a peer whose connection broke.
        with contextlib.suppress(*_NIXL_ERRORS):
            pages.release()
        with contextlib.suppress(*_NIXL_ERRORS):
            self._agent.remove_remote_agent(remote)

    def close(self) -> None:
        for peer in list(self._peers):
            self.disconnect(peer)
        self._local.release()
        self._agent.deregister_memory(self._registration)


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


def _descriptors(address: int, block_bytes: int, num_blocks: int, device_id: int) -> Any:
    """One (address, length, device) row for each block: uint64 [num_blocks, 3]."""
    rows = np.empty((num_blocks, 3), np.uint64)
    rows[:, 0] = address + np.arange(num_blocks, dtype=np.uint64) * np.uint64(block_bytes)
    rows[:, 1] = block_bytes
    rows[:, 2] = device_id
    return rows


def _unpack(peer: str, metadata: bytes) -> tuple[str, Any, bytes]:
    digest, body = metadata[:_DIGEST_BYTES], metadata[_DIGEST_BYTES:]
    if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
        raise BadPeer(f"metadata of {peer} is damaged ({len(metadata)} bytes)")
    return body[:4].decode(), np.frombuffer(body[4:36], np.uint64), body[36:]


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
