"""What becomes of links whose session ends while they are made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec
import pytest

from decode_worker.scheduler import DecodePolicy
from kv_transfer.endpoints.endpoint import OnSpeed, PeerPool
from kv_transfer.transports.probe import LinkSpeed
from wire.identity import ProcessRef, Role, WorkerRef
from wire.layout import KvLayout
from wire.messages import WorkerCard
from wire.reports import LinkReport, Traffic
from worker.config import WorkerConfig
from worker.sessions.links import Links
from worker.steps.step_context import Peer

pytestmark = pytest.mark.quick

LAYOUT = KvLayout(num_layers=1, num_kv_heads=1, head_size=2, block_size=4, dtype="float32")
PEER = Peer(WorkerRef("decode", 1), "decode/1")
CARD = WorkerCard(
    ref=PEER.ref,
    role=Role.DECODE,
    address="there:1",
    model="m",
    model_hash="h",
    layout=LAYOUT,
    content="c",
    num_blocks=8,
    max_model_len=32,
    policies={role: DecodePolicy().traits for role in Role},
    transport="memory",
    process=ProcessRef("here", 1),
)


class SlowEndpoint:
    """Of kv_transfer.endpoints.endpoint.Endpoint what links need; when it has measured, the test
    says."""

    direct_access = False

    def connect(self, link: str, peer: PeerPool, on_result: OnSpeed) -> None:
        self.measured = on_result

    def disconnect(self, link: str, then: Callable[[], None]) -> None:
        then()

    def traffic(self, link: str) -> Traffic | None:
        return None


class Bench:
    def __init__(self, card: WorkerCard = CARD) -> None:
        self.told: list[LinkReport] = []
        self.hung_up: list[str] = []
        self.endpoint = SlowEndpoint()
        self.links = Links(
            WorkerConfig(model="m"),
            card,
            self.endpoint,  # type: ignore[arg-type]
            self.told.append,
            lambda link, cause: self.hung_up.append(cause),
        )


async def test_a_link_that_was_measured_is_there_until_it_is_closed() -> None:
    bench = Bench()
    bench.links.open(PEER, CARD, (b"",))
    bench.endpoint.measured(LinkSpeed(1e-6, 1e9))
    await asyncio.sleep(0)
    assert bench.links.measured == tuple(bench.told) != ()
    await bench.links.close(PEER)
    assert bench.links.measured == ()


async def test_a_link_that_is_closed_before_it_is_known_how_fast_it_is_is_not_there() -> None:
    bench = Bench()
    bench.links.open(PEER, CARD, (b"",))
    bench.endpoint.measured(LinkSpeed(1e-6, 1e9))
    await bench.links.close(PEER)
    assert (bench.links.measured, bench.told) == ((), [])


async def test_a_link_that_could_not_be_made_ends_its_session() -> None:
    bench = Bench()
    bench.links.open(PEER, CARD, (b"",))
    bench.endpoint.measured("no way there")
    await asyncio.sleep(0)
    assert bench.hung_up == ["no way there"]


@pytest.mark.parametrize(("gb_per_s", "slow"), [(3, True), (180, False)])
async def test_nvlink_that_became_tcp_is_told_with_its_usual_causes(
    gb_per_s: float, slow: bool, caplog: pytest.LogCaptureFixture
) -> None:
    layout = msgspec.structs.replace(LAYOUT, num_layers=32, num_kv_heads=8, head_size=128)
    here = msgspec.structs.replace(CARD, layout=layout, on_gpu=True)
    there = msgspec.structs.replace(here, process=ProcessRef("here", 2))
    bench = Bench(here)
    caplog.set_level(logging.INFO)
    bench.links.open(PEER, there, (b"",))
    bench.endpoint.measured(LinkSpeed(1e-6, gb_per_s * 1e9))
    await asyncio.sleep(0)
    (link,) = bench.told
    assert (link.kind, link.slow) == ("GPUs of one host", slow)
    assert ("hostPID" in caplog.text) is slow
    assert ("far below the 20 GB/s" in caplog.text) is slow


async def test_a_gpu_and_a_cpu_of_one_host_promise_no_nvlink() -> None:
    bench = Bench(msgspec.structs.replace(CARD, on_gpu=True))
    there = msgspec.structs.replace(CARD, process=ProcessRef("here", 2))
    bench.links.open(PEER, there, (b"",))
    bench.endpoint.measured(LinkSpeed(1e-6, 1e9))
    await asyncio.sleep(0)
    assert bench.told[0].kind == "loopback network"
