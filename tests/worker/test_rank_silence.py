"""A rank that stands still is found out, and ends with its worker: real processes, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from concurrent.futures import Future

import pytest

from engine.cache.block_pool import BlockPool
from engine.errors import ConfigError
from engine.runner import Slice
from tests.engine.driver import decode, give_blocks, make_sequence, output
from tests.engine.reference import Reference, prompt
from tests.worker.test_tensor_parallel import (
    Checkpoints,
    a_process,
    a_runner,
    a_worker,
    checkpoint,
    greedy,
    is_alive,
    ranks_of,
    settings,
    wait_gone,
)
from worker.build import make_runner
from worker.ranks.errors import RankLost
from worker.ranks.heartbeat import Heartbeat, answer_heartbeats
from worker.ranks.rank_process import RankProcess
from worker.ranks.supervisor import NUM_TURNS, RankSupervisor

__all__ = ["checkpoint"]
SILENCE_S = 4.0
"""A machine may be so busy that a rank that lives answers late."""


def test_turns_without_an_answer_are_counted_and_an_answer_ends_them() -> None:
    ours, theirs = socket.socketpair()
    heartbeat = Heartbeat(ours)
    assert [heartbeat.missed() for _ in range(3)] == [1, 2, 3]
    assert theirs.recv(10) == b"\0", "what is not answered is not asked again"
    theirs.send(b"\0")
    assert [heartbeat.missed() for _ in range(2)] == [0, 1]
    theirs.close()
    assert [heartbeat.missed() for _ in range(2)] == [2, 3], (
        "that a rank has ended is noticed elsewhere"
    )
    heartbeat.close()


def test_a_rank_answers_until_nobody_asks_any_more() -> None:
    ours, theirs = socket.socketpair()
    answering = threading.Thread(target=answer_heartbeats, args=[theirs])
    answering.start()
    for _ in range(3):
        ours.send(b"\0")
        assert ours.recv(10) == b"\0"
    ours.close()
    answering.join(10)
    assert not answering.is_alive()
    theirs.close()


class SilentProcess:
    """Has not answered for as many turns as would be too many."""

    def __init__(self) -> None:
        self.heartbeat = self
        self.asked = threading.Semaphore(0)

    def missed(self) -> int:
        self.asked.release()
        return NUM_TURNS


def test_until_all_are_ready_ranks_are_given_more_time() -> None:
    process, told = SilentProcess(), Future[tuple[object, float]]()
    supervisor = RankSupervisor(lambda: (process,), 0.01, lambda *what: told.set_result(what))  # type: ignore
    for _ in range(3):
        assert process.asked.acquire(timeout=60)
    assert not told.done()
    supervisor.arm()
    assert told.result(60) == (process, 0.01)
    supervisor.end()


def test_ranks_that_cannot_be_started_are_an_error_of_whoever_wants_them() -> None:
    def start() -> tuple[RankProcess, ...]:
        raise BlockingIOError("no more processes")

    with pytest.raises(BlockingIOError, match="no more processes"):
        RankSupervisor(start, 0.01, lambda *what: None)


@pytest.mark.parametrize("victim", [1, pytest.param(3, marks=pytest.mark.long)])
def test_a_rank_that_is_stopped_in_the_middle_of_a_step_is_named_and_killed(
    victim: int, checkpoint: Checkpoints
) -> None:
    lost: Future[Exception] = Future()
    config = settings(checkpoint("grouped"), 4, rank_silence_s=SILENCE_S)
    with a_runner(config, lost) as runner:
        runner.allocate(129)
        sequence = make_sequence(prompt(30))
        give_blocks(sequence, BlockPool(128), 500)
        pids = [each.pid for each in runner.team.processes]
        decode(runner, [sequence], 1)
        threading.Timer(0.0, os.kill, [pids[victim - 1], signal.SIGSTOP]).start()
        with pytest.raises(RankLost) as caught:
            decode(runner, [sequence], 400)
        assert str(caught.value) == (
            f"rank {victim} of 4 (process {pids[victim - 1]}) has not answered for 4 s, and was "
            "killed"
        )
        assert lost.result(60) is caught.value
    assert not any(is_alive(pid) for pid in pids)


async def test_an_idle_worker_whose_rank_is_stopped_crashes(checkpoint: Checkpoints) -> None:
    lost: Future[Exception] = Future()
    config = settings(checkpoint("grouped"), 2, rank_silence_s=SILENCE_S)
    async with a_worker(config, lost) as worker:
        (process,) = worker.engine.runner.team.processes  # type: ignore[attr-defined]
        os.kill(process.pid, signal.SIGSTOP)
        async with asyncio.timeout(60):
            assert "rank 1 of 2" in str(await asyncio.wrap_future(lost))
        assert not is_alive(process.pid)


@pytest.mark.long
def test_a_step_that_takes_longer_is_no_silence(checkpoint: Checkpoints) -> None:
    """Rank 0 stands still within it, and so do the others, who wait for it: all go on."""
    lost: Future[Exception] = Future()
    config = settings(checkpoint("grouped"), 2, rank_silence_s=SILENCE_S)
    with a_runner(config, lost) as runner:
        runner.allocate(129)
        sequence = make_sequence(prompt(30), greedy(8))
        give_blocks(sequence, BlockPool(128), 60)
        asked = threading.Semaphore(0)
        heartbeat = runner.team.processes[0].heartbeat
        missed = heartbeat.missed

        def counted() -> int:
            found = missed()
            asked.release()
            return found

        heartbeat.missed = counted  # type: ignore[method-assign]

        def in_the_middle(num_layers: int) -> None:
            if num_layers == 1:
                for _ in range(15):  # turns, of which ten are a silence
                    assert asked.acquire(timeout=60)

        ((sampled,),) = runner.run([Slice(sequence, 0, 30)], in_the_middle)
        sequence.tokens.append(sampled.token)
        sequence.num_computed = 30
        assert not lost.done()
        decode(runner, [sequence], 8)
        assert output(sequence) == Reference(checkpoint("grouped")).greedy(prompt(30), 8)


@pytest.mark.parametrize("stopped", [0, pytest.param(1, marks=pytest.mark.long)])
def test_no_rank_that_stands_still_outlives_a_killed_rank_0(
    stopped: int, checkpoint: Checkpoints
) -> None:
    """A stopped rank sees no socket close: the kernel kills it."""
    child = a_process(settings(checkpoint("few-kv-heads"), 2, rank_silence_s=600.0))
    pids = ranks_of(child)
    os.kill(pids[stopped], signal.SIGSTOP)
    child.process.kill()
    child.stop(60)
    wait_gone(pids)


def test_a_worker_process_whose_rank_is_stopped_ends_and_says_why(checkpoint: Checkpoints) -> None:
    child = a_process(settings(checkpoint("few-kv-heads"), 4, rank_silence_s=SILENCE_S))
    pids = ranks_of(child)
    os.kill(pids[2], signal.SIGSTOP)
    wait_gone(pids[1:])
    assert child.process.wait(60) == 1
    child.stop(60)
    assert any("rank 2 of 4" in line and "has not answered" in line for line in child._errors)


@pytest.mark.parametrize("name", ["rank_silence_s", "step_timeout_s"])
def test_a_patience_of_no_length_is_refused(name: str, checkpoint: Checkpoints) -> None:
    config = settings(checkpoint("grouped"), 2, **{name: 0.0})
    with pytest.raises(ConfigError, match=f"{name} is 0, must be more than 0"):
        make_runner(config, lambda loaded, total: None)
