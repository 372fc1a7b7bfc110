"""The transport over NIXL: RDMA, NVLink, shared memory or TCP, as its backend finds.

Every rank pair has an agent of its own, at either end. An agent costs some 15 ms, 5 MB and a thread
that sleeps; in return, destroying it ends all writes of its rank pair, and has no effect on others.
Nothing less does: over TCP, a transfer that was released goes on writing, and neither
deregistration nor removing the remote agent stops it.

Every agent registers the pool anew, because NIXL shares no registration between agents. The first
does so when the pool is made known, so that memory which cannot be registered ends the worker's
start with the reason, and not its first link.

Descriptor lists of whole pools are prepared once per rank pair, so that a write costs one index
array; neighbouring blocks merge into one operation when their order is the same on both sides.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kv_transfer.errors import LinkFailed, TransferError
from kv_transfer.layout.region import CacheRegion
from kv_transfer.layout.spans import Offsets
from kv_transfer.transports.nixl.agent import NIXL_ERRORS, UCX, NixlBackend, described, make_agent
from kv_transfer.transports.nixl.outbound import NixlWrites
from kv_transfer.transports.nixl.pool import RegisteredPool, read_admission
from kv_transfer.transports.nixl.registration import deregister, register
from kv_transfer.transports.nixl.ucx_settings import (
    has_direct_access,
    has_nvidia_gpu,
    missing_settings,
)
from kv_transfer.transports.transport import PostedTransfer
from wire.reports import Traffic

log = logging.getLogger(__name__)


class NixlTransport:
    """Implements `Transport` and `CountsTraffic` with NIXL agents.

    `ucx_env` are UCX settings such as UCX_NET_DEVICES or UCX_TLS; UCX reads them when an agent is
    made. All agents are driven from one thread, and the process must not fork afterwards.
    """

    def __init__(
        self,
        own_name: str,
        ucx_env: dict[str, str] | None = None,
        backend: NixlBackend = UCX,
        device: str = "cpu",
    ) -> None:
        """`device` has the pool. Raises TransferError for a backend that does not work."""
        _set_environment(ucx_env or {}, device)
        self.name = "nixl" if backend.name == "UCX" else f"nixl over {backend.name}"
        self._own_name = own_name
        self._backend = backend
        self._num_agents = 0
        # The first agent takes long to make, and shows whether backend and pool work.
        self._spare: Any = self._new_agent()
        self._inbound: dict[str, Any] = {}
        self._outbound: dict[str, NixlWrites] = {}

    @property
    def direct_access(self) -> bool:
        if self._backend.name != "UCX":
            return True  # for all that is known
        return has_direct_access(os.environ.get("UCX_TLS", "all"))

    def register(
        self, pool: CacheRegion, num_blocks: int, staging: CacheRegion | None = None
    ) -> None:
        self._regions = [pool] if staging is None else [pool, staging]
        self._pool = RegisteredPool.of(pool, num_blocks)
        self._descriptors = self._pool.descriptors()
        register(self._spare, pool)
        if staging is not None and staging.device != "cpu":
            # Only tried: the agent may become one that admits, whose peer gets the pool alone.
            deregister(self._spare, register(self._spare, staging))

    def admit(self, pair: str) -> bytes:
        self.evict(pair)
        with _link_fails(f"admit {pair}"):
            agent = self._take_agent()
            metadata = agent.get_agent_metadata()
        self._inbound[pair] = agent
        return self._pool.admission(metadata)

    def evict(self, pair: str) -> None:
        # The last reference destroys the agent, with its connections and registrations.
        self._inbound.pop(pair, None)

    def connect(self, pair: str, admission: bytes) -> None:
        self.disconnect(pair)
        theirs, metadata = read_admission(pair, admission)
        with _link_fails(f"connect to {pair}"):
            agent = self._take_agent()
            for region in self._regions[1:]:
                register(agent, region)
        writes = NixlWrites(pair, agent, self._pool, theirs, counts=self._backend.telemetry)
        self._outbound[pair] = writes
        try:
            writes.open(metadata, self._descriptors)
        except NIXL_ERRORS as error:
            self.disconnect(pair)
            raise LinkFailed(f"connect to {pair}: {described(error)}") from error

    def write(
        self, pair: str, blocks: Sequence[int], remote_blocks: Sequence[int]
    ) -> PostedTransfer:
        return self._writes(pair).write(blocks, remote_blocks)

    def write_spans(self, pair: str, spans: Offsets, *, staged: bool) -> PostedTransfer:
        return self._writes(pair).write_spans(self._regions[staged], spans)

    def traffic(self, pair: str) -> Traffic | None:
        """None also without the backend's telemetry."""
        writes = self._outbound.get(pair)
        return None if writes is None else writes.traffic()

    def disconnect(self, pair: str) -> None:
        writes = self._outbound.pop(pair, None)
        if writes is not None:
            writes.destroy()

    def close(self) -> None:
        for pair in list(self._outbound):
            self.disconnect(pair)
        self._inbound.clear()
        self._spare = None

    def _writes(self, pair: str) -> NixlWrites:
        writes = self._outbound.get(pair)
        if writes is None:
            raise LinkFailed(f"{pair} is not connected")
        return writes

    def _take_agent(self) -> Any:
        """An agent with which the pool is registered. Raises TransferError."""
        agent, self._spare = self._spare, None
        if agent is None:
            agent = self._new_agent()
            register(agent, self._regions[0])
        return agent

    def _new_agent(self) -> Any:
        self._num_agents += 1
        return make_agent(f"{self._own_name}/{self._num_agents}", self._backend)


def _set_environment(ucx_env: dict[str, str], device: str) -> None:
    """UCX reads its settings from the environment of the process."""
    os.environ.update(ucx_env)
    missing = missing_settings(os.environ, device=device, has_gpu=has_nvidia_gpu())
    if "UCX_TLS" in missing:
        log.info("UCX_TLS is %s: NIXL asks for cuda_copy beside a GPU", missing["UCX_TLS"])
    os.environ.update(missing)


@contextmanager
def _link_fails(what: str) -> Iterator[None]:
    """Turns the errors of NIXL and of making an agent into LinkFailed."""
    try:
        yield
    except NIXL_ERRORS as error:
        raise LinkFailed(f"{what}: {described(error)}") from error
    except TransferError as error:
        raise LinkFailed(f"{what}: {error}") from error
