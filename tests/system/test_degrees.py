"""Workers of several tensor-parallel ranks hand sequences over: real processes, gRPC, NIXL."""

from __future__ import annotations

import asyncio
import os
import signal
from itertools import product
from pathlib import Path

import pytest

from cluster.bundled import BUNDLED_MODEL
from cluster.running import RunningCluster
from tests.engine.checkpoints import write
from tests.system.clusters import (
    BUNDLED,
    a_client,
    a_cluster,
    a_request,
    answer,
    wait_until_replaced,
)
from tests.system.shells import children_of
from tests.system.workers import RunningWorker, handed_over, start_worker, workers
from tests.worker.conftest import GROUPED
from tests.worker.models import NUM_OUTPUT, PROMPT, Model, one_thread
from tests.worker.test_tensor_parallel import wait_gone
from wire import inference_pb2 as pb
from wire.identity import AttemptId, Role
from wire.messages import Failed, Kept
from wire.reports import LinkReport
from wire.sampling import SamplingParams

PATIENCE_S = 500
"""Two dozen processes, each of which reads PyTorch, may take minutes where other things run."""
BUSY_SILENCE_S = 300.0
"""So long the kernel may hold one of them up while they all page in, and then connect; no rank is
stopped here."""
pytestmark = pytest.mark.timeout(2 * PATIENCE_S)
DEGREES = (1, 2, 4)
GREEDY = SamplingParams(max_tokens=NUM_OUTPUT, temperature=0.0, ignore_eos=True)


@pytest.mark.long
async def test_all_pairs_of_degrees_give_the_tokens_of_no_handoff(tmp_path: Path) -> None:
    directory = write(GROUPED, tmp_path)
    with one_thread():
        expected = Model(directory).alone("float32", 16)
    starting = [
        start_worker(
            role,
            directory,
            tensor_parallel_size=degree,
            block_size=size,
            rank_silence_s=BUSY_SILENCE_S,
            transfer_deadline_s=BUSY_SILENCE_S,
        )
        for role, size in ((Role.PREFILL, 4), (Role.DECODE, 16))
        for degree in DEGREES
    ]
    async with asyncio.timeout(PATIENCE_S), workers(*starting) as running:
        prefill, decode = running[:3], running[3:]
        for number, (source, to) in enumerate(product(prefill, decode)):
            attempt_id = AttemptId(f"r{number}")
            tokens, handed = await handed_over(attempt_id, list(PROMPT), GREEDY, source, to)
            assert tokens == expected, (source.card.layout, to.card.layout)
            layout, moved = to.card.layout, handed.moved
            assert moved.num_blocks == layout.num_blocks(len(PROMPT))
            assert moved.num_bytes == moved.num_blocks * layout.block_bytes
            link = await source.hears(None, LinkReport)
            assert isinstance(link, LinkReport)
            assert link.bytes_per_s > 0
        for worker in running:
            await worker.is_whole()


killed_or_not = pytest.mark.parametrize(
    "killed",
    [pytest.param(True, id="killed"), pytest.param(False, id="stopped", marks=pytest.mark.long)],
)


@killed_or_not
async def test_a_source_loses_a_rank_in_the_middle_and_the_destination_is_whole(
    killed: bool, tmp_path: Path
) -> None:
    """The rank stands still before it ends, so that the handoff cannot be over by then."""
    directory = write(GROUPED, tmp_path)
    two = {"tensor_parallel_size": 2, "rank_silence_s": 60.0 if killed else 4.0}
    starting = [
        start_worker(Role.PREFILL, directory, chunk_tokens=16, **two),
        start_worker(Role.DECODE, directory, tensor_parallel_size=1),
    ]
    async with asyncio.timeout(PATIENCE_S), workers(*starting) as (prefill, decode):
        await handed_over(AttemptId("first"), list(PROMPT), GREEDY, prefill, decode)
        (other,) = prefill.children
        stop(other)
        prefill.submit(AttemptId("second"), list(PROMPT), GREEDY, decode)
        if killed:
            await decode.takes_part_in_a_handoff()
            os.kill(other, signal.SIGKILL)
        assert await prefill.ends() == 1
        await serves_alone(decode)


@killed_or_not
async def test_a_destination_loses_a_rank_in_the_middle_and_the_source_is_whole(
    killed: bool, tmp_path: Path
) -> None:
    directory = write(GROUPED, tmp_path)
    two = {"tensor_parallel_size": 2, "rank_silence_s": 60.0 if killed else 4.0}
    starting = [
        start_worker(Role.PREFILL, directory, tensor_parallel_size=1, block_size=4),
        start_worker(Role.DECODE, directory, **two),
    ]
    async with asyncio.timeout(PATIENCE_S), workers(*starting) as (prefill, decode):
        await handed_over(AttemptId("first"), list(PROMPT), GREEDY, prefill, decode)
        (other,) = decode.children
        await decode.is_whole()
        stop(other)
        prefill.submit(AttemptId("second"), list(PROMPT), GREEDY, decode)
        if killed:
            await prefill.takes_part_in_a_handoff()
            os.kill(other, signal.SIGKILL)
        assert await decode.ends() == 1
        await prefill.hears(AttemptId("second"), Failed, Kept)
        await serves_alone(prefill)


async def test_a_router_pairs_workers_of_different_degrees() -> None:
    with one_thread():
        expected = Model(BUNDLED_MODEL).alone("float32", 16)
    settings = {
        **BUNDLED,
        "prefill.worker.tensor_parallel_size": 2,
        "decode.worker.tensor_parallel_size": 1,
    }
    greedy = pb.Sampling(temperature=0.0)
    with a_cluster(settings) as cluster:
        async with a_client(cluster) as stub:
            tokens, last = await answer(stub, a_request([*PROMPT], NUM_OUTPUT, sampling=greedy))
    assert tokens == expected
    assert last.timing.transfer.num_bytes > 0


@pytest.mark.long
async def test_a_rank_that_stands_still_costs_no_token_and_its_worker_is_replaced() -> None:
    settings = {
        **BUNDLED,
        "decode.worker.tensor_parallel_size": 2,
        "decode.worker.rank_silence_s": 4.0,
    }
    request = a_request([*PROMPT], 200, sampling=pb.Sampling(temperature=0.0))
    with a_cluster(settings) as cluster:
        async with a_client(cluster) as stub:
            expected, _ = await answer(stub, request)
            stopped: list[int] = []
            tokens: list[int] = []
            async for message in stub.Generate(request, timeout=120):
                tokens += message.token_ids
                if len(tokens) > 5 and not stopped:
                    stopped = stop_another_rank(cluster, "decode-0")
            assert tokens == expected
            wait_until_replaced(cluster, "decode-0")
            wait_gone(stopped)
            _, last = await answer(stub, request)
    assert last.served_by.decode_worker_id == "decode-0.2"


def stop_another_rank(cluster: RunningCluster, name: str) -> list[int]:
    """Its process."""
    (place,) = [place for place in cluster._workers if place.name == name]
    process_id = place.worker.status().process_id
    assert process_id is not None
    found = list(children_of(process_id))
    for pid in found:
        stop(pid)
    return found


def stop(pid: int) -> None:
    """Returns when all its threads stand still: on a busy machine some go on for a while."""
    os.kill(pid, signal.SIGSTOP)
    while not all(is_stopped(thread) for thread in Path(f"/proc/{pid}/task").iterdir()):
        os.sched_yield()


def is_stopped(thread: Path) -> bool:
    return thread.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "T"


async def serves_alone(worker: RunningWorker) -> None:
    """Also what nobody hands over to it, or takes from it."""
    await worker.is_whole()
    attempt_id = AttemptId("alone")
    worker.submit(attempt_id, list(PROMPT), GREEDY)
    await worker.has_answered(attempt_id, NUM_OUTPUT)
    await worker.is_whole()
