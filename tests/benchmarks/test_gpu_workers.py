"""Workers that benchmarks.gpu starts share the one GPU that it is for."""

from __future__ import annotations

import pytest

from benchmarks.gpu.context import Context
from benchmarks.gpu.parts.handoff import ALWAYS
from benchmarks.gpu.workers import CPU_CACHE_BYTES, GIB, worker_settings
from cluster.config import load_config
from router.config import Split

pytestmark = pytest.mark.quick


def test_both_workers_see_the_gpu_and_have_their_part_of_it() -> None:
    settings = worker_settings(Context("handoff", "cuda:0", "torch"), 4 * GIB, dtype="bfloat16")
    config = load_config(None, {**settings, **ALWAYS})
    workers = [pool for pool, _ in config.workers()]
    assert [pool.role.value for pool in workers] == ["prefill", "decode"]
    assert config.router.split is Split.ALWAYS
    for pool in workers:
        assert (pool.worker.device, pool.num_gpus) == ("cuda:0", 0)
        assert (pool.worker.cache_bytes, pool.worker.attention) == (4 * GIB, "torch")


def test_on_a_cpu_they_stay_on_this_machine_and_small() -> None:
    settings = worker_settings(Context("handoff", "cpu"), 4 * GIB)
    (pool, _), *_ = load_config(None, {**settings, **ALWAYS}).workers()
    assert pool.worker.ucx_env == {"UCX_NET_DEVICES": "lo"}
    assert (pool.worker.device, pool.worker.cache_bytes) == ("cpu", CPU_CACHE_BYTES)
