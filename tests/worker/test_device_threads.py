"""Every thread that touches a device is bound to it before it does anything else."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import pytest
import torch

from kv_transfer.device_thread import bind_thread
from kv_transfer.endpoints import rank
from kv_transfer.endpoints.remote_rank_messages import ChecksumBlocks, Reply
from kv_transfer.endpoints.remote_rank_server import RankService
from kv_transfer.layout.region import CacheRegion
from kv_transfer.transports.memory import MemoryFabric, MemoryTransport
from tests.kv_transfer.sides import Side
from tests.worker.bench import CONFIG, Bench
from tests.worker.test_rank_calls import Ends, Number, a_call_server
from wire.layout import KvLayout
from worker.rank import load_runner as loading
from worker.steps import step_loop

pytestmark = pytest.mark.quick

LAYOUT = KvLayout(num_layers=1, num_kv_heads=1, head_size=2, block_size=4, dtype="float32")
PATIENCE_S = 60


class Trace:
    """What each thread has done, in its order."""

    def __init__(self) -> None:
        self.done: dict[str, list[str]] = {}
        self.seen = threading.Event()

    def note(self, what: str) -> None:
        self.done.setdefault(threading.current_thread().name, []).append(what)

    def bind(self, device: str = "") -> None:
        self.note(f"bind {device}".strip())

    def end(self, what: str) -> None:
        self.note(what)
        self.seen.set()

    def of(self, thread: str) -> list[str]:
        """What the thread with this name, or one that begins so, has done."""
        assert self.seen.wait(PATIENCE_S)
        (found,) = [done for name, done in self.done.items() if name.startswith(thread)]
        return found


def test_a_bound_thread_has_its_device_and_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """`set_device` alone makes none where the number stays as it was."""
    calls: list[tuple[str, str]] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda it: calls.append(("set", it)))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda it: calls.append(("ask", it)))
    bind_thread("cpu")
    bind_thread("cuda:1")
    assert calls == [("set", "cuda:1"), ("ask", "cuda:1")]


def test_the_transfer_thread_is_bound_before_it_calls_its_transport(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trace, transport = Trace(), MemoryTransport("us", MemoryFabric())
    monkeypatch.setattr(rank, "bind_thread", trace.bind)
    monkeypatch.setattr(transport, "admit", lambda pair: trace.end("admit") or b"")
    region = CacheRegion(0, LAYOUT.block_bytes, "cpu", None)
    endpoint = rank.RankEndpoint(LAYOUT, 0, 1, region, region, lambda blocks, first: 0, transport)
    endpoint.start(lambda link, cause: None, _raise)
    endpoint.admit("link", LAYOUT, lambda admissions: None)
    assert trace.of("transfer thread") == ["bind cpu", "admit"]
    endpoint.stop()


def test_the_step_loop_is_bound_before_its_first_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    trace, loop = Trace(), Bench().prefill.loop
    monkeypatch.setattr(step_loop, "bind_thread", trace.bind)
    monkeypatch.setattr(loop.engine, "schedule", lambda: trace.note("schedule") or [])
    loop.call(lambda: trace.end("call"))
    loop.start()
    assert trace.of("steps")[:2] == ["bind cpu", "call"]
    loop.stop()


def test_the_thread_that_computes_a_rank_s_checksums_is_bound_first() -> None:
    trace, side = Trace(), Side("rank", LAYOUT, MemoryFabric())
    endpoint = side.ranks[0]
    endpoint.bind_thread = trace.bind  # type: ignore[method-assign]
    endpoint.checksum = _noted(trace)  # type: ignore[method-assign]
    service = RankService(endpoint, lambda notice: None, _raise)
    service.handlers[ChecksumBlocks](ChecksumBlocks(LAYOUT, (1,), 0), _nobody)
    assert trace.of("checksums") == ["bind", "checksum"]
    service._checksums.shutdown()


def test_a_rank_s_calls_are_bound_before_the_first_is_carried_out() -> None:
    trace = Trace()

    def note(message: Number, reply: Reply) -> None:
        trace.note("call")
        reply(message)

    with a_call_server() as ends:
        ends.server.serve({Number: note}, trace.bind)
        for number in range(2):
            assert ends.client.call(Number(number), Number).result(PATIENCE_S) == Number(number)
        trace.seen.set()
        assert trace.of(_server_thread(ends)) == ["bind", "call", "call"]


def test_the_thread_that_loads_a_model_is_bound_before(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = Trace()
    monkeypatch.setattr(loading, "bind_thread", trace.bind)
    monkeypatch.setattr(loading, "load_torch_runner", lambda *given, **named: trace.end("load"))
    loading.load_runner(msgspec.structs.replace(CONFIG, device="cpu"), lambda loaded, total: None)
    assert trace.of(threading.current_thread().name) == ["bind cpu", "load"]


def _noted(trace: Trace) -> Callable[[KvLayout], Callable[..., int]]:
    def checksum(source: KvLayout) -> Callable[..., int]:
        return lambda blocks, first: trace.end("checksum") or 0

    return checksum


def _server_thread(ends: Ends) -> str:
    return ends.threads[1].name


def _nobody(message: msgspec.Struct) -> None: ...


def _raise(error: Exception) -> None:
    raise error
