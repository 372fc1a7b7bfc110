"""Workers of several tensor-parallel ranks hand sequences over: real processes, gRPC, NIXL."""

from __future__ import annotations

import asyncio
import os
import signal
from itertools import product
from pathlib import Path

from cluster.bundled import BUNDLED_MODEL
from tests.engine.checkpoints import write
from tests.system.clusters import BUNDLED, a_client, a_cluster, a_request, answer
from tests.system.workers import RunningWorker, handed_over, start_worker, workers
from tests.worker.conftest import GROUPED
from tests.worker.models import NUM_OUTPUT, PROMPT, Model, one_thread
from wire import inference_pb2 as pb
from wire.identity import Leg, Role
from wire.messages import Failed, Kept, Link
from wire.sampling import SamplingParams

DEGREES = (1, 2, 4)
GREEDY = SamplingParams(max_tokens=NUM_OUTPUT, temperature=0.0, ignore_eos=True)


async def test_all_pairs_of_degrees_give_the_tokens_of_no_handoff(tmp_path: Path) -> None:
    directory = write(GROUPED, tmp_path)
    with one_thread():
        expected = Model(directory).alone("float32", 16)
    starting = [
        start_worker(role, directory, tensor_parallel_size=degree, block_size=size)
        for role, size in ((Role.PREFILL, 4), (Role.DECODE, 16))
        for degree in DEGREES
    ]
    async with asyncio.timeout(240), workers(*starting) as running:
        prefill, decode = running[:3], running[3:]
        for number, (source, to) in enumerate(product(prefill, decode)):
            leg = Leg(f"r{number}")
            tokens, handed = await handed_over(leg, list(PROMPT), GREEDY, source, to)
            assert tokens == expected, (source.card.layout, to.card.layout)
            layout, moved = to.card.layout, handed.moved
            assert moved.num_blocks == layout.num_blocks(len(PROMPT))
            assert moved.num_bytes == moved.num_blocks * layout.block_bytes
            link = await source.hears(None, Link)
            assert isinstance(link, Link)
            assert link.bytes_per_s > 0
        for worker in running:
            await worker.is_whole()


async def test_a_source_loses_a_rank_in_the_middle_and_the_destination_is_whole(
    tmp_path: Path,
) -> None:
    """The rank stands still before it ends, so that the handoff cannot be over by then."""
    directory = write(GROUPED, tmp_path)
    starting = [
        start_worker(Role.PREFILL, directory, tensor_parallel_size=2, chunk_tokens=16),
        start_worker(Role.DECODE, directory, tensor_parallel_size=1),
    ]
    async with asyncio.timeout(120), workers(*starting) as (prefill, decode):
        await handed_over(Leg("first"), list(PROMPT), GREEDY, prefill, decode)
        (other,) = prefill.children
        os.kill(other, signal.SIGSTOP)
        prefill.submit(Leg("second"), list(PROMPT), GREEDY, decode)
        await decode.takes_part_in_a_handoff()
        os.kill(other, signal.SIGKILL)
        assert await prefill.ends() == 1
        await serves_alone(decode)


async def test_a_destination_loses_a_rank_in_the_middle_and_the_source_is_whole(
    tmp_path: Path,
) -> None:
    directory = write(GROUPED, tmp_path)
    starting = [
        start_worker(Role.PREFILL, directory, tensor_parallel_size=1, block_size=4),
        start_worker(Role.DECODE, directory, tensor_parallel_size=2),
    ]
    async with asyncio.timeout(120), workers(*starting) as (prefill, decode):
        await handed_over(Leg("first"), list(PROMPT), GREEDY, prefill, decode)
        (other,) = decode.children
        await decode.is_whole()
        os.kill(other, signal.SIGSTOP)
        prefill.submit(Leg("second"), list(PROMPT), GREEDY, decode)
        await prefill.takes_part_in_a_handoff()
        os.kill(other, signal.SIGKILL)
        assert await decode.ends() == 1
        await prefill.hears(Leg("second"), Failed, Kept)
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


async def serves_alone(worker: RunningWorker) -> None:
    """Also what nobody hands over to it, or takes from it."""
    await worker.is_whole()
    leg = Leg("alone")
    worker.submit(leg, list(PROMPT), GREEDY)
    await worker.has_answered(leg, NUM_OUTPUT)
    await worker.is_whole()
