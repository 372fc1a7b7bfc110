"""A model's weights are exchanged under running streams, with real processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from cluster.config import load_config
from cluster.launcher import RunningWorker
from cluster.process_launcher import ProcessLauncher
from cluster.running import RunningCluster, running
from tests.system.clusters import BUNDLED, a_client, a_request, answer
from tests.system.revisions import a_revision
from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc

pytestmark = pytest.mark.long

PROMPT = list(range(40, 100))
NUM_TOKENS = 48
SETTINGS = {
    **BUNDLED,
    "worker.deterministic": True,
    "worker.cache_bytes": 32 * 1024 * 1024,
    "model_name": "tiny",
}


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_revision(tmp_path_factory.mktemp("revisions") / "new", seed=1)


def greedy() -> pb.GenerateRequest:
    return a_request(PROMPT, NUM_TOKENS, sampling=pb.Sampling(temperature=0.0))


class Streams:
    """Answers the same question again and again; what each answer was, or why there was none."""

    def __init__(self, stub: rpc.InferenceStub) -> None:
        self._stub = stub
        self.answers: list[tuple[int, ...]] = []
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._more = asyncio.Condition()

    def start(self, count: int) -> None:
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(count)]

    async def stop(self) -> None:
        """Raises what any request failed with."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def until(self, wanted: tuple[int, ...] | None = None, count: int = 4) -> None:
        """So many more answers have come, all of them `wanted` unless that is None."""
        begin = len(self.answers)
        async with asyncio.timeout(120), self._more:
            await self._more.wait_for(lambda: len(self.answers) >= begin + count)
        if wanted is not None:
            assert set(self.answers[begin:]) == {wanted}

    async def until_another_than(self, former: tuple[int, ...]) -> tuple[int, ...]:
        async with asyncio.timeout(120), self._more:
            await self._more.wait_for(lambda: set(self.answers) - {former})
        (other,) = set(self.answers) - {former}
        return other

    async def _ask(self) -> None:
        while not self._stopping:
            tokens, _ = await answer(self._stub, greedy())
            async with self._more:
                self.answers.append(tuple(tokens))
                self._more.notify_all()


@contextmanager
def a_cluster_and_its_launcher() -> Iterator[tuple[RunningCluster, ProcessLauncher]]:
    launcher = ProcessLauncher()
    with running(load_config(None, SETTINGS), launcher, lambda line: None) as cluster:
        yield cluster, launcher


def start_worker_of(
    model: Path, role: str, cluster: RunningCluster, launcher: ProcessLauncher
) -> RunningWorker:
    """As another pod of the pool with other weights would."""
    pool = cluster.config.pool(role)
    fleet = cluster._routers.slots[0].router.fleet
    config = msgspec.structs.replace(
        pool.worker, model=str(model), worker_id=f"new-{role}", routers=(fleet,)
    )
    return launcher.start_worker(pool, f"new-{role}", config)


async def until_ready(worker: RunningWorker) -> None:
    """As its readiness probe sees it."""
    deadline = time.monotonic() + 120
    while (status := await asyncio.to_thread(worker.status)).address is None:
        assert status.error is None, status.error
        assert time.monotonic() < deadline


async def end(cluster: RunningCluster, name: str) -> None:
    """As Kubernetes ends a pod."""
    (place,) = [place for place in cluster._workers if place.name == name]
    place.worker.drain(30.0)
    await asyncio.to_thread(place.worker.wait_stopped, 60.0)


@pytest.mark.timeout(400)
async def test_weights_are_exchanged_under_running_streams_and_none_of_them_fails(
    other_weights: Path,
) -> None:
    with a_cluster_and_its_launcher() as (cluster, launcher):
        async with a_client(cluster) as stub:
            tokens, _ = await answer(stub, greedy())
            old, streams = tuple(tokens), Streams(stub)
            streams.start(3)
            await until_ready(start_worker_of(other_weights, "decode", cluster, launcher))
            await streams.until(old)
            await until_ready(start_worker_of(other_weights, "prefill", cluster, launcher))
            new = await streams.until_another_than(old)
            await streams.until(new)
            for name in ("prefill-0", "decode-0"):
                await end(cluster, name)
                await streams.until(new)
            await streams.stop()
            assert set(streams.answers) == {old, new}, "each is of one revision from end to end"
