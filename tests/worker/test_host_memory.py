"""A worker with host memory behind its cache: what it tells, and how it is configured."""

from __future__ import annotations

import pytest

from engine.errors import ConfigError
from engine.schedule.step_times import ENOUGH_STEPS
from kv_transfer.hashing import block_hashes
from tests.worker.test_live import Router, a_router, a_worker
from wire.identity import AttemptId, Role
from wire.messages import Prefilled, Submit, WantSnapshot
from wire.reports import CacheEvents, Report
from wire.sampling import SamplingParams

pytestmark = pytest.mark.quick

BLOCK_BYTES = 16 * 2 * 8
PROMPT = tuple(range(100))


def a_submit(name: str, prompt: tuple[int, ...]) -> Submit:
    return Submit(
        attempt_id=AttemptId(name),
        tokens=prompt,
        num_prompt=len(prompt),
        sampling=SamplingParams(max_tokens=2),
    )


async def a_snapshot(router: Router) -> CacheEvents:
    router.sessions[0].send(WantSnapshot())
    while True:
        events = await router.first(None, CacheEvents)
        assert isinstance(events, CacheEvents)
        if events.snapshot:
            return events


async def test_what_left_the_cache_is_told_to_be_in_host_memory_and_comes_back() -> None:
    """Too few steps have been seen to say that computing such small blocks is quicker."""
    sizes = {"cache_bytes": 8 * BLOCK_BYTES, "host_cache_bytes": 100 * BLOCK_BYTES}
    async with a_worker(Role.DECODE, **sizes) as worker, a_router(worker) as router:
        for number in range(ENOUGH_STEPS - 1):
            prompt = tuple(token + 200 * number for token in PROMPT)
            router.sessions[0].send(a_submit(f"r{number}", prompt))
            while len((await a_snapshot(router)).host_stored) < 6 * (number + 1):
                pass
        snapshot = await a_snapshot(router)
        assert len(set(block_hashes(PROMPT, 16)) & set(snapshot.stored)) == 1
        assert set(block_hashes(PROMPT, 16)) <= set(snapshot.host_stored)
        router.sessions[0].send(a_submit("again", PROMPT))
        again = await router.first(AttemptId("again"), Prefilled)
        assert isinstance(again, Prefilled)
        assert again.cached_tokens == 96
        filled = 0
        while filled < 12:  # reports from before may still be on their way
            report = await router.first(None, Report)
            assert isinstance(report, Report)
            assert report.num_host_blocks == 100
            filled = report.cached_host_blocks
        assert filled == 12


async def test_changes_in_host_memory_are_events() -> None:
    sizes = {"cache_bytes": 8 * BLOCK_BYTES, "host_cache_bytes": 100 * BLOCK_BYTES}
    async with a_worker(Role.DECODE, **sizes) as worker, a_router(worker) as router:
        await a_snapshot(router)
        router.sessions[0].send(a_submit("r", PROMPT))
        told: set[bytes] = set()
        while len(told) < 6:
            events = await router.first(None, CacheEvents)
            assert isinstance(events, CacheEvents)
            told |= set(events.host_stored)
        assert told == set(block_hashes(PROMPT, 16))


async def test_less_than_a_block_of_host_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="host_cache_bytes is 100, less than one block"):
        async with a_worker(Role.DECODE, host_cache_bytes=100):
            pass


async def test_more_host_memory_than_there_is_is_refused() -> None:
    with pytest.raises(ConfigError, match="host_cache_bytes is"):
        async with a_worker(Role.DECODE, host_cache_bytes=1 << 60):
            pass
