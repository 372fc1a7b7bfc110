"""Blocks in GPU memory as NIXL and UCX see it: real workers over a stub of NVIDIA's driver."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from engine.runners.arithmetic_runner import next_token
from tests.stub_gpu.stub_driver import StubDriver, beside_a_gpu, compile_stub
from tests.system.workers import ROOT, RunningWorker, handed_over, workers
from wire.identity import AttemptId, Role
from wire.sampling import SamplingParams

PATIENCE_S = 200
STAMPS = {Role.PREFILL: 1, Role.DECODE: 2}
PROMPT = list(range(300))
GREEDY = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
VOCAB = 2048


@pytest.fixture
def driver(tmp_path: Path) -> StubDriver:
    return compile_stub(tmp_path)


async def started(
    role: Role, environment: dict[str, str], prefix: tuple[str, ...] = (), **settings: Any
) -> Process:
    given = {
        "runner": "arithmetic",
        "stamp": STAMPS[role],
        "width": 64,  # with blocks so large, a link is measured with few copies
        "ucx_env": {"UCX_NET_DEVICES": "lo"},
        "cache_bytes": 4 << 20,
        "staging_bytes": 4 << 20,
        "drain_timeout_s": 1.0,
        **settings,
    }
    return await asyncio.create_subprocess_exec(
        *(*prefix, sys.executable, "-m", "tests.stub_gpu.worker", role.value),
        *("--model", "arithmetic", "--settings", json.dumps(given), "--log-level", "warning"),
        cwd=ROOT,
        stdout=PIPE,
        stderr=PIPE,
        env=environment,
    )


async def test_memory_that_the_driver_does_not_know_is_one_error_at_the_start(
    driver: StubDriver,
) -> None:
    process = await started(Role.PREFILL, driver.environment)
    try:
        async with asyncio.timeout(PATIENCE_S):
            ready, log = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    lines = log.decode().splitlines()
    assert (process.returncode, ready) == (2, b"")
    assert "cuPointerGetAttributes" in driver.calls, "NIXL has asked the driver"
    assert any("detected as host by UCX" in line for line in lines), "NIXL's reason"
    (error,) = [line for line in lines if line.startswith("error:")]
    assert error.startswith("error: transport 'nixl': NIXL cannot register 4 MiB of memory on cuda")
    assert "Traceback" not in log.decode()


@pytest.mark.parametrize("tls", [None, "tcp"])
async def test_a_sequence_is_handed_over_from_gpu_to_gpu(
    tls: str | None, driver: StubDriver, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With UCX_TLS=tcp beside a GPU, which NIXL refuses unless cuda_copy is added."""
    prefix = [] if tls is None else beside_a_gpu(tmp_path_factory.mktemp("pci"))
    ucx_env = {"UCX_NET_DEVICES": "lo", **({} if tls is None else {"UCX_TLS": tls})}
    environment = {**driver.environment, "STUB_GPU_HAS_POOL": "yes"}

    async def start(role: Role) -> RunningWorker:
        return RunningWorker(await started(role, environment, tuple(prefix), ucx_env=ucx_env))

    async with asyncio.timeout(PATIENCE_S), workers(*map(start, Role)) as (source, to):
        tokens, handed = await handed_over(AttemptId("r"), PROMPT, GREEDY, source, to)
        await to.is_whole()
    assert tokens == expected([1, 2, 2, 2])
    assert handed.moved.num_blocks == 19
    assert {"cuMemcpyAsync", "cuPointerGetAttributes"} <= driver.calls


def expected(stamps: list[int]) -> list[int]:
    tokens = list(PROMPT)
    for stamp in stamps:
        tokens.append(next_token(tokens, stamp, VOCAB))
    return tokens[len(PROMPT) :]
