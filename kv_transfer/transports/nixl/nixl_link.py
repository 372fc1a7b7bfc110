"""Blocks over NIXL: RDMA, NVLink, shared memory or TCP, as its backend finds.

Only the nixl_*.py of this room import NIXL. Every link has an agent of its own, at either end. An
agent costs some 15 ms, 5 MB and a thread that sleeps; in return, destroying it ends everything that
goes over the link, without any other link's noticing. There is no lesser way: over TCP, a transfer
that was released goes on writing, and neither deregistration nor removing the remote agent stops
it.

Descriptor lists of whole pools are prepared once per link, so that a write costs one index array;
neighbouring blocks merge into one operation when their order is the same on both sides.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from kv_transfer.errors import LinkFailed
from kv_transfer.layout.region import CacheRegion
from kv_transfer.layout.spans import Offsets
from kv_transfer.transports.nixl.agent import NIXL_ERRORS, UCX, NixlBackend, described, make_agent
from kv_transfer.transports.nixl.outbound import NixlWrites
from kv_transfer.transports.nixl.pool import RegisteredPool, mem_type_of, read_admission
from kv_transfer.transports.transport import PostedTransfer
from wire.reports import Traffic

FABRIC_ONLY = {"self", "tcp", "ib", "rc", "rc_x", "rc_v", "rc_mlx5", "ud", "ud_x", "dc", "dc_x"}
"""UCX transports by which no process reaches into another's memory by itself."""


class NixlLink:
    """Implements `Transport` and `CountsTraffic` with NIXL agents.

    `ucx_env` are UCX settings such as UCX_NET_DEVICES or UCX_TLS; UCX reads them when an agent is
    made. All agents are driven from one thread, and the process never forks after.
    """

    def __init__(
        self,
        own_name: str,
        ucx_env: dict[str, str] | None = None,
        backend: NixlBackend = UCX,
    ) -> None:
        """Raises TransferError for a backend that is of no use."""
        os.environ.setdefault("UCX_LOG_FILE", "stderr")  # otherwise it writes to standard output
        # Otherwise an agent's own thread spins on UCX's lock for as long as a write copies.
        os.environ.setdefault("UCX_USE_MT_MUTEX", "y")
        os.environ.update(ucx_env or {})
        self.name = "nixl" if backend.name == "UCX" else f"nixl over {backend.name}"
        self._own_name = own_name
        self._backend = backend
        self._num_agents = 0
        # The first takes long, and shows whether the backend works.
        self._spare: Any = self._new_agent()
        self._inbound: dict[str, Any] = {}
        self._outbound: dict[str, NixlWrites] = {}

    @property
    def direct_access(self) -> bool:
        if self._backend.name != "UCX":
            return True  # for all that is known
        chosen = os.environ.get("UCX_TLS", "all")
        return chosen.startswith("^") or not set(chosen.split(",")) <= FABRIC_ONLY

    def register(
        self, pool: CacheRegion, num_blocks: int, staging: CacheRegion | None = None
    ) -> None:
        self._regions = [pool] if staging is None else [pool, staging]
        self._pool = RegisteredPool.of(pool, num_blocks)
        self._descriptors = self._pool.descriptors()

    def admit(self, peer: str) -> bytes:
        self.evict(peer)
        agent = self._take_agent(self._regions[:1])
        self._inbound[peer] = agent
        return self._pool.admission(agent.get_agent_metadata())

    def evict(self, peer: str) -> None:
        # The last reference: this destroys the agent, with its connections and registrations.
        self._inbound.pop(peer, None)

    def connect(self, peer: str, admission: bytes) -> None:
        self.disconnect(peer)
        theirs, metadata = read_admission(peer, admission)
        agent = self._take_agent(self._regions)
        link = NixlWrites(peer, agent, self._pool, theirs, counts=self._backend.telemetry)
        self._outbound[peer] = link
        try:
            link.open(metadata, self._descriptors)
        except NIXL_ERRORS as error:
            self.disconnect(peer)
            raise LinkFailed(f"connect to {peer}: {described(error)}") from error

    def write(self, peer: str, blocks: Sequence[int], pages: Sequence[int]) -> PostedTransfer:
        return self._link(peer).write(blocks, pages)

    def write_spans(self, peer: str, spans: Offsets, *, staged: bool) -> PostedTransfer:
        return self._link(peer).write_spans(self._regions[staged], spans)

    def traffic(self, peer: str) -> Traffic | None:
        """None also without the backend's telemetry."""
        link = self._outbound.get(peer)
        return None if link is None else link.traffic()

    def disconnect(self, peer: str) -> None:
        link = self._outbound.pop(peer, None)
        if link is not None:
            link.destroy()

    def close(self) -> None:
        for peer in list(self._outbound):
            self.disconnect(peer)
        self._inbound.clear()
        self._spare = None

    def _link(self, peer: str) -> NixlWrites:
        link = self._outbound.get(peer)
        if link is None:
            raise LinkFailed(f"{peer} is not connected")
        return link

    def _take_agent(self, regions: list[CacheRegion]) -> Any:
        agent, self._spare = self._spare or self._new_agent(), None
        for region in regions:
            mem_type, device_id = mem_type_of(region.device)
            agent.register_memory([(region.address, region.num_bytes, device_id, "")], mem_type)
        return agent

    def _new_agent(self) -> Any:
        self._num_agents += 1
        return make_agent(f"{self._own_name}/{self._num_agents}", self._backend)
