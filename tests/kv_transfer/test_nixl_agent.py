"""NIXL backends that are accepted, and NIXL's telemetry of their writes."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest

from engine.errors import ConfigError
from engine.runners.arithmetic_runner import ArithmeticRunner
from kv_transfer.errors import LinkFailed, TransferError
from kv_transfer.transports.nixl.agent import UCX, NixlBackend
from kv_transfer.transports.nixl.nixl_transport import NixlTransport
from kv_transfer.transports.nixl.registration import CUDA_MAJOR, advice
from kv_transfer.transports.transport import CountsTraffic, PostedTransfer
from wire.reports import Traffic
from worker.config import WorkerConfig
from worker.rank.transport import make_transport

pytestmark = pytest.mark.quick

NUM_BLOCKS = 16
BLOCK_BYTES = ArithmeticRunner().layout.block_bytes
LOOPBACK = {"UCX_NET_DEVICES": "lo"}


def a_link(name: str, backend: NixlBackend) -> NixlTransport:
    return NixlTransport(f"{name}-{os.getpid()}", LOOPBACK, backend)


@contextmanager
def connected(
    backend: NixlBackend = UCX, width: int = 1
) -> Iterator[tuple[NixlTransport, Callable[[int], list[int]]]]:
    """A link between two pools of this process, and what is found in a block of the far one.

    Our block i is filled with 100 + i.
    """
    ours, theirs = ArithmeticRunner(width=width), ArithmeticRunner(width=width)
    with closing(a_link("us", backend)) as link, closing(a_link("them", backend)) as peer:
        link.register(ours.allocate(NUM_BLOCKS), NUM_BLOCKS)
        peer.register(theirs.allocate(NUM_BLOCKS), NUM_BLOCKS)
        for block in range(NUM_BLOCKS):
            ours._cache[block] = 100 + block
        link.connect("peer", peer.admit("us"))
        yield link, lambda block: sorted({int(value) for value in theirs._cache[block].ravel()})


def finish(transfer: PostedTransfer) -> None:
    deadline = time.monotonic() + 60
    while not transfer.done():
        assert time.monotonic() < deadline, "the write does not end"


def test_a_backend_is_made_with_options_of_its_own() -> None:
    with connected(NixlBackend("UCX", {"num_workers": "2"})) as (link, found):
        finish(link.write("peer", (1, 5), (3, 2)))
        assert [found(3), found(2), found(1)] == [[101], [105], [0]]
        assert link.name == "nixl"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("INFINIBAND", "has no backend 'INFINIBAND', only .*POSIX, .*UCX: take 'UCX'"),
        ("ucx", "has no backend 'ucx', only .*UCX"),
        ("POSIX", "carries between DRAM_SEG and FILE_SEG, not .* memory .*take 'UCX'"),
        ("GDS", "backend 'GDS'.*take 'UCX'"),  # storage; needs libraries that few machines have
    ],
)
def test_a_backend_that_reaches_no_worker_is_refused_at_the_start(name: str, why: str) -> None:
    with pytest.raises(TransferError, match=why):
        a_link("us", NixlBackend(name))


def test_options_that_a_backend_does_not_understand_are_refused_with_its_defaults() -> None:
    with pytest.raises(TransferError, match=r"num_workers': 'many'.*'num_workers': '1'"):
        a_link("us", NixlBackend(options={"num_workers": "many"}))


def test_a_worker_names_the_setting_of_a_backend_that_is_of_no_use() -> None:
    config = WorkerConfig(model="m", nixl_backend="POSIX")
    with pytest.raises(ConfigError, match=r"^nixl_backend: .*POSIX"):
        make_transport(config, "us")


def test_a_worker_s_settings_reach_its_agents() -> None:
    config = WorkerConfig(model="m", nixl_backend_options={"num_workers": "many"}, ucx_env=LOOPBACK)
    with pytest.raises(ConfigError, match="many"):
        make_transport(config, "us")


def test_memory_that_is_no_gpu_s_is_refused_at_the_start_with_what_to_look_at() -> None:
    pool = ArithmeticRunner().allocate(NUM_BLOCKS)
    declared = dataclasses.replace(pool, device="cuda:0")
    with (
        closing(a_link("us", UCX)) as link,
        pytest.raises(TransferError, match=r"on cuda:0 \(nixlBackendError"),
    ):
        link.register(declared, NUM_BLOCKS)


def test_advice_fits_the_memory_and_what_is_there() -> None:
    assert "ulimit -l" in advice("cpu")
    assert "UCX_TLS must include cuda_copy" in advice("cuda:0", lambda library: None)
    absent = advice("cuda:0", lambda library: f"no {library}" if "cudart" in library else None)
    assert f"no libcudart.so.{CUDA_MAJOR}. GPU memory needs a driver" in absent


def test_an_agent_that_cannot_be_made_fails_its_link_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(a_link("us", UCX)) as link:
        link.register(ArithmeticRunner().allocate(NUM_BLOCKS), NUM_BLOCKS)
        admission = link.admit("first")
        monkeypatch.setenv("UCX_TLS", "no_such_transport")
        with pytest.raises(LinkFailed, match="admit second: NIXL cannot make backend 'UCX'"):
            link.admit("second")
        with pytest.raises(LinkFailed, match="connect to second: NIXL cannot make backend 'UCX'"):
            link.connect("second", admission)


@pytest.mark.parametrize("tls", ["all", "tcp"])
def test_what_went_over_a_link_is_counted(tls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UCX_TLS", tls)
    with connected(NixlBackend(telemetry=True)) as (link, found):
        assert isinstance(link, CountsTraffic)
        nothing = Traffic(num_writes=0, num_bytes=0, num_descriptors=0, post_s=0, fabric_s=0)
        assert link.traffic("peer") == nothing
        finish(link.write("peer", (1, 2, 9), (3, 4, 5)))
        finish(link.write_spans("peer", np.array([[0, 8 * BLOCK_BYTES, 64]]), staged=False))
        assert found(5) == [109]
        traffic = link.traffic("peer")
        assert traffic is not None
        assert (traffic.num_writes, traffic.num_bytes) == (2, 3 * BLOCK_BYTES + 64)
        assert traffic.num_descriptors == 3, "neighbours are one"
        assert 0 <= traffic.post_s <= traffic.fabric_s < 60
        link.disconnect("peer")
        assert link.traffic("peer") is None


def test_a_write_under_way_is_given_up_with_its_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UCX_TLS", "tcp")
    with connected(NixlBackend(telemetry=True), width=4096) as (link, _):
        finish(link.write("peer", (1,), (3,)))
        blocks = tuple(range(NUM_BLOCKS))
        # NIXL writes on while nobody looks: a write that a late look finds over is made again.
        while (transfer := link.write("peer", blocks, blocks[::-1])).done():
            pass
        link.disconnect("peer")
        with pytest.raises(LinkFailed, match="disconnected"):
            transfer.done()


def test_nothing_is_counted_unless_it_is_asked_for() -> None:
    with connected() as (link, _):
        finish(link.write("peer", (1,), (3,)))
        assert link.traffic("peer") is None


def test_writes_go_on_where_the_environment_forbids_telemetry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NIXL_TELEMETRY_ENABLE", "n")
    with connected(NixlBackend(telemetry=True)) as (link, found):
        finish(link.write("peer", (1,), (3,)))
        assert found(3) == [101]
        assert link.traffic("peer") is None
