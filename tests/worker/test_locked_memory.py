"""RDMA that is asked for, and a limit of locked memory that does not allow it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from worker.locked_memory import locked_memory_problem, rdma_asked_for

MIB = 1024 * 1024
WARN = """
import ctypes, json, logging, resource, sys
from worker.config import WorkerConfig
from worker.locked_memory import warn_of_locked_memory
logging.basicConfig(stream=sys.stdout, format="%(message)s")
config = WorkerConfig(model="m", **json.loads(sys.argv[1]))
_, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, most))
libc = ctypes.CDLL(None)
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
libc.capset(header, sets)  # as a process that is not root
warn_of_locked_memory(config)
"""


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"UCX_TLS": "rc,cuda_copy,cuda_ipc"}, "UCX_TLS=rc,cuda_copy,cuda_ipc"),
        ({"UCX_TLS": "tcp,dc_mlx5"}, "UCX_TLS=tcp,dc_mlx5"),
        ({"UCX_NET_DEVICES": "mlx5_0:1"}, "UCX_NET_DEVICES=mlx5_0:1"),
        ({"FI_PROVIDER": "efa"}, "FI_PROVIDER=efa"),
        ({}, None),
        ({"UCX_TLS": "all"}, None),
        ({"UCX_TLS": "^ib"}, None),
        ({"UCX_TLS": "cuda_copy,cuda_ipc,sm,tcp"}, None),
        ({"UCX_NET_DEVICES": "eth0,lo"}, None),
        ({"FI_PROVIDER": "tcp"}, None),
    ],
)
def test_only_what_needs_an_adapter_asks_for_rdma(
    settings: dict[str, str], asked: str | None
) -> None:
    assert rdma_asked_for(settings) == asked


def test_a_limit_that_suffices_is_no_problem() -> None:
    assert locked_memory_problem("UCX_TLS=rc", None, 1 << 40) is None
    assert locked_memory_problem("UCX_TLS=rc", 256 * MIB, 256 * MIB) is None


def test_a_limit_that_is_too_low_is_told_with_what_to_do() -> None:
    problem = locked_memory_problem("UCX_TLS=rc", 8 * MIB, 256 * MIB)
    assert problem is not None
    for word in ("UCX_TLS=rc", "8 MiB", "256 MiB", "RLIMIT_MEMLOCK", "LimitMEMLOCK=infinity"):
        assert word in problem


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"ucx_env": {"UCX_TLS": "rc"}}, True),
        ({"ucx_env": {"UCX_TLS": "tcp"}}, False),
        ({"ucx_env": {"UCX_TLS": "rc"}, "staging_bytes": 1024}, False),
        ({"ucx_env": {"UCX_TLS": "rc"}, "staging_bytes": 1024, "cache_bytes": 8192}, True),
    ],
)
def test_a_process_that_is_not_root_is_warned_of_its_limit(
    settings: dict[str, object], warned: bool
) -> None:
    words = [sys.executable, "-c", WARN, json.dumps(settings)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ("RLIMIT_MEMLOCK" in ended.stdout) is warned
