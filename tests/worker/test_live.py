"""Two workers in this process, over real sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

import runtime.session
import worker.sessions.links
from cluster.roles import POLICIES
from engine.errors import ConfigError
from kv_transfer.errors import LinkFailed
from kv_transfer.transports.memory import MemoryTransport
from runtime.session import METHOD, Session, open_session
from wire.identity import AttemptId, Role
from wire.messages import (
    Destination,
    Handed,
    Hello,
    Kept,
    Message,
    Output,
    SetRole,
    StepOutputs,
    Submit,
    WorkerCard,
)
from wire.reports import LinkReport, Report
from wire.sampling import SamplingParams
from worker.config import RunnerKind, WorkerConfig
from worker.host import Worker
from worker.rank.transport import PROCESS_FABRIC

PATIENCE_S = 60.0
"""Only a test that fails waits so long; a busy machine may need a part of it."""


@asynccontextmanager
async def a_worker(role: Role, **settings: Any) -> AsyncIterator[Worker]:
    config = WorkerConfig(
        model="m",
        runner=RunnerKind.ARITHMETIC,
        worker_id=role.value,
        **{"transport": "memory", "cache_bytes": 4 * 1024 * 1024, **settings},
    )
    worker = Worker(config, role, POLICIES, on_crash=lambda error: None)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


@asynccontextmanager
async def a_pair(**settings: Any) -> AsyncIterator[tuple[Worker, Worker]]:
    async with (
        a_worker(Role.PREFILL, **settings) as prefill,
        a_worker(Role.DECODE, **settings) as decode,
    ):
        yield prefill, decode


class Router:
    """Sessions with both workers, and everything that they say: what comes from one of them may
    overtake what comes from the other."""

    def __init__(self, sessions: list[Session]) -> None:
        self.sessions = sessions
        self._heard: list[Message] = []
        self._more = asyncio.Event()
        self._tasks = [asyncio.create_task(self._listen(session)) for session in sessions]

    async def first(self, attempt_id: AttemptId | None, *kinds: type[Message]) -> Message:
        """The first message of one of these kinds about the attempt, of those not yet asked for."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for number, message in enumerate(self._heard):
                    if (
                        isinstance(message, kinds)
                        and getattr(message, "attempt_id", None) == attempt_id
                    ):
                        return self._heard.pop(number)
                self._more.clear()
                await self._more.wait()

    async def tells_role(self, role: Role) -> None:
        """Some worker reports this role from now on, which it did not have before."""
        while True:
            report = await self.first(None, Report)
            if isinstance(report, Report) and report.role is role:
                return

    async def num_tokens(self, attempt_id: AttemptId) -> int:
        """The length of an answer, once it is complete."""
        outputs: list[Output] = []
        while not outputs or outputs[-1].finish is None:
            step = await self.first(None, StepOutputs)
            assert isinstance(step, StepOutputs)
            outputs += [each for each in step.outputs if each.attempt_id == attempt_id]
        return sum(len(each.tokens) for each in outputs)

    async def _listen(self, session: Session) -> None:
        async for message in session.messages():
            self._heard.append(message)
            self._more.set()


@asynccontextmanager
async def a_router(*workers: Worker) -> AsyncIterator[Router]:
    opened = [
        await open_session(worker.card.address, Hello(caller_id="router"), timeout_s=PATIENCE_S)
        for worker in workers
    ]
    router = Router([one.session for one in opened])
    yield router
    for session in router.sessions:
        session.close()
    await asyncio.gather(*router._tasks)


def a_submit(name: str, card: WorkerCard | None = None, max_tokens: int = 4) -> Submit:
    return Submit(
        attempt_id=AttemptId(name),
        tokens=tuple(range(40)),
        num_prompt=40,
        sampling=SamplingParams(max_tokens=max_tokens),
        destination=None if card is None else Destination(card.ref, card.address),
    )


async def test_handoffs_in_both_directions_have_a_link_each() -> None:
    async with a_pair() as (prefill, decode), a_router(prefill, decode) as router:
        for number, (first, second) in enumerate([(0, decode), (1, prefill)]):
            router.sessions[first].send(a_submit(f"x{number}", second.card))
            heard = await router.first(AttemptId(f"x{number}"), Handed, Kept)
            assert isinstance(heard, Handed)
        assert len(PROCESS_FABRIC.admitted) == 2


async def test_a_worker_changes_its_role_while_it_serves() -> None:
    """A decode worker with a running answer becomes a prefill worker, and hands over another."""
    async with a_pair(step_s=0.01) as (prefill, decode), a_router(prefill, decode) as router:
        router.sessions[1].send(a_submit("stays", max_tokens=60))
        await router.first(None, StepOutputs)
        router.sessions[1].send(SetRole(role=Role.PREFILL))
        router.sessions[0].send(SetRole(role=Role.DECODE))
        await router.tells_role(Role.PREFILL)
        await router.tells_role(Role.DECODE)
        router.sessions[1].send(a_submit("goes", prefill.card))
        assert isinstance(await router.first(AttemptId("goes"), Handed, Kept), Handed)
        assert 1 + await router.num_tokens(AttemptId("stays")) == 60, "one token was heard before"


async def test_a_link_whose_session_ends_leaves_nothing_open() -> None:
    async with a_pair() as (prefill, decode), a_router(prefill, decode) as router:
        router.sessions[0].send(a_submit("x", decode.card))
        assert isinstance(await router.first(AttemptId("x"), Handed, Kept), Handed)
        (link,) = prefill._peers._sessions
        prefill._peers.hang_up(link, "for the test")
        await until(lambda: not PROCESS_FABRIC.admitted and not prefill._peers._sessions)
        router.sessions[0].send(a_submit("y", decode.card))
        assert isinstance(await router.first(AttemptId("y"), Handed, Kept), Handed)


async def test_a_source_that_calls_again_ends_its_former_session() -> None:
    async with a_pair() as (prefill, decode):
        hello = prefill._hello()
        former = await open_session(decode.card.address, hello, timeout_s=PATIENCE_S)
        later = await open_session(decode.card.address, hello, timeout_s=PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            assert [message async for message in former.session.messages()] == []
        assert former.admissions != later.admissions
        assert list(PROCESS_FABRIC.admitted) == [it.decode() for it in later.admissions]
        later.session.close()


async def test_a_link_is_measured_when_it_is_made_and_told_to_routers() -> None:
    async with a_pair() as (prefill, decode), a_router(prefill, decode) as router:
        router.sessions[0].send(a_submit("x", decode.card))
        link = await router.first(None, LinkReport)
        assert isinstance(link, LinkReport)
        assert link.destination == decode.ref
        assert link.bytes_per_s > 0
        assert isinstance(await router.first(AttemptId("x"), Handed, Kept), Handed)


async def test_what_goes_over_a_link_is_told_to_routers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.sessions.links, "TRAFFIC_PERIOD_S", 0.01)
    async with (
        a_pair(transport="nixl", nixl_telemetry=True) as (prefill, decode),
        a_router(prefill, decode) as router,
    ):
        router.sessions[0].send(a_submit("x", decode.card))
        link = await router.first(None, LinkReport)
        assert isinstance(link, LinkReport)
        assert link.traffic is not None, "that of measuring, at least"
        router.sessions[0].send(a_submit("y", decode.card))
        again = await router.first(None, LinkReport)
        assert isinstance(again, LinkReport)
        assert again.traffic is not None
        block_bytes = prefill.card.layout.block_bytes
        assert (again.traffic.num_bytes - link.traffic.num_bytes) % block_bytes == 0
        assert again.traffic.num_writes > link.traffic.num_writes
        assert again.bytes_per_s == link.bytes_per_s


async def test_a_link_without_telemetry_tells_of_no_traffic() -> None:
    async with a_pair(transport="nixl") as (prefill, decode), a_router(prefill, decode) as router:
        router.sessions[0].send(a_submit("x", decode.card))
        link = await router.first(None, LinkReport)
        assert isinstance(link, LinkReport)
        assert link.traffic is None


async def test_a_link_that_failed_once_is_tried_again() -> None:
    async with a_pair() as (prefill, decode), a_router(prefill, decode) as router:
        PROCESS_FABRIC.kill(str(decode.ref))
        try:
            router.sessions[0].send(a_submit("x", decode.card))
            assert isinstance(await router.first(AttemptId("x"), Handed, Kept), Kept)
        finally:
            PROCESS_FABRIC.dead.clear()
        router.sessions[0].send(a_submit("y", decode.card))
        assert isinstance(await router.first(AttemptId("y"), Handed, Kept), Handed)


async def test_a_worker_that_cannot_admit_a_peer_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when an adapter has no room for another registration."""

    def refuse(transport: MemoryTransport, pair: str) -> bytes:
        raise LinkFailed(f"admit {pair}: no memory can be registered")

    async with a_pair() as (prefill, decode), a_router(prefill, decode) as router:
        with monkeypatch.context() as patched:
            patched.setattr(MemoryTransport, "admit", refuse)
            router.sessions[0].send(a_submit("x", decode.card))
            assert isinstance(await router.first(AttemptId("x"), Handed, Kept), Kept)
        router.sessions[0].send(a_submit("y", decode.card))
        assert isinstance(await router.first(AttemptId("y"), Handed, Kept), Handed)


async def test_attempts_of_a_router_s_former_session_end() -> None:
    async with a_worker(Role.PREFILL) as worker, a_router(worker) as former:
        former.sessions[0].send(a_submit("x", max_tokens=16000))
        await until(lambda: not worker.idle)
        async with a_router(worker):
            await until(lambda: worker.idle)


async def test_a_caller_that_never_says_hello_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.session, "HELLO_S", 0.1)
    async with (
        a_worker(Role.PREFILL) as worker,
        grpc.aio.insecure_channel(worker.card.address) as channel,
        asyncio.timeout(PATIENCE_S),
    ):
        call = channel.stream_stream(METHOD)()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_a_drain_ends_at_once_when_the_step_loop_has_crashed() -> None:
    async with a_worker(Role.PREFILL) as worker:

        def breaks() -> None:
            raise RuntimeError("broken")

        worker._steps.call(breaks)
        async with asyncio.timeout(PATIENCE_S):
            assert not await worker.drain(2 * PATIENCE_S)


async def test_a_peer_whose_network_died_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    patient = runtime.session.CHANNEL_OPTIONS
    hasty = [(key, 1000 if key.endswith(("time_ms", "timeout_ms")) else v) for key, v in patient]
    monkeypatch.setattr(runtime.session, "CHANNEL_OPTIONS", hasty)
    async with a_worker(Role.PREFILL) as worker, a_dying_network(worker.card.address) as network:
        address, die = network
        opened = await open_session(address, Hello(caller_id="router"), timeout_s=PATIENCE_S)
        die()
        async with asyncio.timeout(PATIENCE_S):
            async for _ in opened.session.messages():
                pass
        assert "ping timeout" in (opened.session.closed_because or "")


@asynccontextmanager
async def a_dying_network(
    target: str,
) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A proxy that carries bytes until told to swallow them, without a word to either end."""
    host, _, port = target.rpartition(":")
    alive = True
    tasks: set[asyncio.Task[Any]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(65536):
                if alive:
                    writer.write(piece)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection(host, int(port))
        for way in (carry(reader, onward[1]), carry(onward[0], writer)):
            tasks.add(asyncio.create_task(way))

    def die() -> None:
        nonlocal alive
        alive = False

    proxy = await asyncio.start_server(connect, "127.0.0.1", 0)
    own_port = proxy.sockets[0].getsockname()[1]
    yield f"127.0.0.1:{own_port}", die
    proxy.close()
    await asyncio.gather(*tasks)


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop and the threads run until the condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


async def test_a_worker_that_nobody_could_reach_says_so_before_it_loads() -> None:
    with pytest.raises(ConfigError, match=r"host is 0\.0\.0\.0.*give an address"):
        async with a_worker(Role.DECODE, host="0.0.0.0"):
            raise AssertionError("it started")
