"""Time in which the process does not run does not pass."""

from __future__ import annotations

import asyncio
import logging

import pytest

from router.fleet.running_clock import READ_INTERVAL_S, STANDSTILL_S, RunningClock

pytestmark = pytest.mark.quick


class Wall:
    """The machine's clock."""

    def __init__(self) -> None:
        self.now = 1000.0

    def read(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def clock(wall: Wall) -> RunningClock:
    return RunningClock(wall.read)


def run(wall: Wall, clock: RunningClock, seconds: float) -> None:
    """The process runs: the clock is read again and again."""
    end = wall.now + seconds
    while wall.now < end:
        wall.now = min(end, wall.now + READ_INTERVAL_S)
        clock.now()


def test_while_the_process_runs_time_passes(wall: Wall, clock: RunningClock) -> None:
    run(wall, clock, 100.0)
    assert clock.now() == 1100.0
    assert clock.since_standstill_s() is None


def test_a_long_step_of_the_event_loop_is_no_standstill(wall: Wall, clock: RunningClock) -> None:
    wall.now += STANDSTILL_S
    assert clock.now() == 1000.0 + STANDSTILL_S
    assert clock.since_standstill_s() is None


def test_a_standstill_does_not_count_and_is_told_once(
    wall: Wall, clock: RunningClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    run(wall, clock, 10.0)
    wall.now += 20.0
    assert clock.now() == pytest.approx(1010.0)
    run(wall, clock, 3.0)
    assert clock.now() == pytest.approx(1013.0)
    assert clock.since_standstill_s() == pytest.approx(3.0)
    assert [record.getMessage()[:31] for record in caplog.records] == [
        "this process was suspended for "
    ]


def test_standstills_add_up(wall: Wall, clock: RunningClock) -> None:
    for _ in range(3):
        wall.now += 60.0
        clock.now()
    assert clock.now() == pytest.approx(1000.0)


async def test_a_timer_that_is_due_in_a_standstill_waits_for_its_time(
    wall: Wall, clock: RunningClock
) -> None:
    called = asyncio.Event()
    clock.call_at(1000.2, called.set)
    wall.now += 3600.0  # and while the loop waited 0.2 s, the process stood still for an hour
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(called.wait(), 0.3)
    wall.now += 1.0
    await asyncio.wait_for(called.wait(), 60)


async def test_who_waits_is_not_given_up_for_a_standstill(wall: Wall, clock: RunningClock) -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(clock.wait_for(future, 0.2))
    await asyncio.sleep(0)
    wall.now += 3600.0
    await asyncio.sleep(0.25)
    future.set_result("served")
    assert await waiting


async def test_who_waits_too_long_is_given_up(wall: Wall, clock: RunningClock) -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(clock.wait_for(future, 0.01))
    await asyncio.sleep(0)
    wall.now += 1.0
    assert not await waiting
    assert not future.done()
