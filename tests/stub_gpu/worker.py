"""A worker whose blocks are a GPU's for NIXL: `python -m tests.stub_gpu.worker ROLE ARGUMENTS`.

ROLE is prefill or decode. The memory is the host's, and only the transport is told otherwise. The
stub driver confirms it if STUB_GPU_HAS_POOL is set, and knows nothing of it otherwise.
"""

import ctypes
import dataclasses
import os
import sys

from cluster.roles import POLICIES
from kv_transfer.layout.region import CacheRegion
from kv_transfer.transports.nixl import nixl_transport
from kv_transfer.transports.nixl.agent import UCX, NixlBackend
from kv_transfer.transports.nixl.nixl_transport import NixlTransport
from wire.identity import Role
from worker.process import make_app

DEVICE = "cuda:0"


class StubGpuTransport(NixlTransport):
    """Takes the pool and staging for memory of the stub's GPU."""

    def __init__(
        self,
        own_name: str,
        ucx_env: dict[str, str] | None = None,
        backend: NixlBackend = UCX,
        device: str = "cpu",
    ) -> None:
        super().__init__(own_name, ucx_env, backend, DEVICE)

    def register(
        self, pool: CacheRegion, num_blocks: int, staging: CacheRegion | None = None
    ) -> None:
        staging = None if staging is None else on_gpu(staging)
        super().register(on_gpu(pool), num_blocks, staging)


def on_gpu(region: CacheRegion) -> CacheRegion:
    if os.environ.get("STUB_GPU_HAS_POOL"):
        driver = ctypes.CDLL("libcuda.so.1")
        driver.stub_declare(ctypes.c_size_t(region.address), ctypes.c_size_t(region.num_bytes))
    return dataclasses.replace(region, device=DEVICE)


if __name__ == "__main__":
    nixl_transport.NixlTransport = StubGpuTransport  # type: ignore[misc]
    make_app(Role(sys.argv.pop(1)), POLICIES)()
