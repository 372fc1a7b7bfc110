"""A router with fake workers around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import pytest_asyncio
from tokenizers import Tokenizer

from router.config import RouterAddresses, RouterConfig
from router.models import ServedModel
from router.placing.ledger import PromptHashes
from router.server import RouterServer
from tests.router.fake_worker import FakeWorker
from tests.router.tiny_model import one_model, write_model
from wire import inference_pb2 as pb
from wire.identity import Role
from wire.inference_pb2_grpc import InferenceStub
from wire.messages import WantSnapshot


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def backend(model_dir: Path) -> Tokenizer:
    """The tokenizer as its library has it: the oracle of every text."""
    return Tokenizer.from_file(str(model_dir / "tokenizer.json"))


class View(NamedTuple):
    """One worker, as placement sees it."""

    ready: bool
    num_hit_tokens: int
    num_queued_tokens: int
    num_sequences: int
    num_legs: int


class Stage:
    """A running router, its workers by id, and a stub for its gRPC door."""

    def __init__(self, server: RouterServer, addresses: RouterAddresses) -> None:
        self.server = server
        self.addresses = addresses
        self.workers: dict[str, FakeWorker] = {}
        self.channel = grpc.aio.insecure_channel(addresses.grpc)
        self.stub = InferenceStub(self.channel)

    @property
    def model(self) -> ServedModel:
        """The first that is served, as a rule the only one."""
        return next(iter(self.server.conductor.models))

    async def add(self, worker_id: str, role: Role, **options: Any) -> FakeWorker:
        """A worker that has joined."""
        worker = self.make_worker(worker_id, role, **options)
        await worker.start(self.addresses.fleet)
        await worker.hears(WantSnapshot)
        return worker

    def make_worker(self, worker_id: str, role: Role, **options: Any) -> FakeWorker:
        """A worker that is still to be started."""
        return FakeWorker(worker_id, role, peers=self.workers, **options)

    def view(self, worker: FakeWorker, tokens: Sequence[int] = ()) -> View:
        """What placement sees of it."""
        ledger = self.server.conductor.models.find(worker.model).fleet.ledger
        row, load = ledger.table.row(worker.ref), ledger.load(worker.ref)
        assert row is not None
        assert load is not None
        return View(
            ready=bool(ledger.table.ready[row]),
            num_hit_tokens=int(ledger.hits(tokens, PromptHashes()).either[row]),
            num_queued_tokens=int(load.queued_tokens),
            num_sequences=int(load.num_decoding + load.num_expected),
            num_legs=load.num_legs,
        )

    def call(self, metadata: Any = None, **fields: Any) -> Any:
        """A call under way."""
        request = pb.GenerateRequest(**{"max_tokens": 9, **fields})
        return self.stub.Generate(request, metadata=metadata)

    async def add_pair(self, script: list[int], **options: Any) -> tuple[FakeWorker, FakeWorker]:
        prefill = await self.add("prefill-0", Role.PREFILL, script=script, **options)
        return prefill, await self.add("decode-0", Role.DECODE, script=script, **options)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until the fleet is such that the condition holds."""
        async with asyncio.timeout(60):
            while not condition():
                await self.model.fleet.wait_changed(0.02)

    async def close(self) -> None:
        await self.channel.close()
        await self.server.stop()
        for worker in list(self.workers.values()):
            await worker.die()


StartStage = Callable[..., Awaitable[Stage]]


@pytest_asyncio.fixture
async def start_stage(model_dir: Path) -> AsyncIterator[StartStage]:
    """Starts a router with settings of one's own."""
    stages: list[Stage] = []

    async def start(**settings: Any) -> Stage:
        defaults: dict[str, Any] = {"models": one_model(model_dir), "join_wait_s": 0.05}
        server = RouterServer(RouterConfig(**{**defaults, **settings}))
        stages.append(Stage(server, await server.start()))
        return stages[-1]

    yield start
    for stage in stages:
        await stage.close()


@pytest_asyncio.fixture
async def stage(start_stage: StartStage) -> Stage:
    return await start_stage()
