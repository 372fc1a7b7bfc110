"""What settings leave open is chosen by the device and by the role; what they say stays."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import decode_worker.scheduler
import prefill_worker.scheduler
from cluster.roles import POLICIES
from engine.errors import ConfigError
from engine.schedule.step_times import StepTimes
from wire.identity import Role
from worker.build import make_machine
from worker.config import WorkerConfig
from worker.fitted_config import GIB, FittedConfig, fit

pytestmark = pytest.mark.quick


def chosen(role: Role, gpu_gib: int | None, **settings: Any) -> tuple[float, int, int]:
    gpu_bytes = None if gpu_gib is None else gpu_gib * GIB
    found = fit(WorkerConfig(model="m", **settings), role, gpu_bytes)
    return found.cache_fraction, found.chunk_tokens, found.mixed_chunk_tokens


def test_a_cpu_shares_its_memory_and_takes_short_chunks() -> None:
    assert chosen(Role.PREFILL, None) == (0.2, 512, 512)
    assert chosen(Role.DECODE, None) == (0.2, 512, 128)


@pytest.mark.parametrize(
    ("gib", "chunk"), [(22, 2048), (31, 2048), (40, 4096), (48, 4096), (79, 8192), (139, 8192)]
)
def test_prefill_chunks_grow_with_the_gpus_memory(gib: int, chunk: int) -> None:
    assert chosen(Role.PREFILL, gib) == (0.85, chunk, chunk)


def test_decode_workers_take_shorter_ones_so_that_no_token_waits_long() -> None:
    assert chosen(Role.DECODE, 22) == chosen(Role.DECODE, 139) == (0.85, 2048, 512)


def test_what_is_set_stays_on_any_device() -> None:
    given = {"cache_fraction": 0.5, "chunk_tokens": 100, "mixed_chunk_tokens": 60}
    for role in Role:
        for gib in (None, 139):
            assert chosen(role, gib, **given) == (0.5, 100, 60)
    assert chosen(Role.PREFILL, 139, chunk_tokens=1000) == (0.85, 1000, 1000)


def test_no_step_has_more_prompt_tokens_than_a_chunk() -> None:
    assert chosen(Role.DECODE, 139, chunk_tokens=256)[1:] == (256, 256)
    assert chosen(Role.DECODE, None, chunk_tokens=64)[1:] == (64, 64)
    assert chosen(Role.PREFILL, None, chunk_tokens=64, mixed_chunk_tokens=100)[1:] == (64, 64)


def test_fitting_again_changes_nothing() -> None:
    once = fit(WorkerConfig(model="m", max_sequences=7), Role.PREFILL, 139 * GIB)
    assert fit(once, Role.DECODE, None) == once
    assert once.max_sequences == 7


def test_the_card_tells_routers_what_was_chosen() -> None:
    def traits(role: Role, gpu_bytes: int | None) -> tuple[int, int]:
        fitted = fit(WorkerConfig(model="m"), role, gpu_bytes)
        rooms = {Role.PREFILL: prefill_worker.scheduler, Role.DECODE: decode_worker.scheduler}
        told = rooms[role].make_policy(fitted, StepTimes()).traits
        return told.chunk_tokens, told.mixed_chunk_tokens

    assert [traits(role, None) for role in (Role.PREFILL, Role.DECODE)] == [(512, 512), (512, 128)]
    assert traits(Role.PREFILL, 139 * GIB) == (8192, 8192)
    assert traits(Role.DECODE, 139 * GIB) == (2048, 512)


def test_a_worker_on_a_gpu_says_what_was_chosen_before_it_loads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from worker.rank.load_runner import GpuMemory

    def load(config: FittedConfig, progress: object) -> None:
        raise ConfigError(f"loads with chunks of {config.chunk_tokens}")

    gpu = GpuMemory("NVIDIA H200", 140 * GIB)
    monkeypatch.setattr("worker.rank.load_runner.gpu_memory", lambda config: gpu)
    monkeypatch.setattr("worker.rank.load_runner.load_runner", load)
    caplog.set_level(logging.INFO, "tandem.start")
    config = WorkerConfig(model="m")
    with pytest.raises(ConfigError, match="loads with chunks of 8192"):
        make_machine(
            config,
            "w",
            Role.PREFILL,
            POLICIES,
            lambda loaded, total: None,
            lambda error: None,
        )
    assert caplog.messages == [
        "computes on NVIDIA H200 with 140 GiB: cache_fraction 0.85, chunk_tokens 8192, "
        "mixed_chunk_tokens 8192"
    ]
