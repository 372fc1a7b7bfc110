"""A worker as a whole: loads the model, listens, joins fleets, steps, drains, stops."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc

from engine.engine import Engine
from engine.policy import Policy
from engine.runner import CacheRegion
from kv_transfer.courier import Courier
from kv_transfer.transport import Transport
from runtime.fleet import announce
from runtime.listen import bind
from runtime.names import for_each_address
from runtime.session import SERVER_OPTIONS, OpenedSession, Session, SessionService
from wire.handoff import Handoff
from wire.identity import Role, WorkerRef, draw_incarnation
from wire.messages import (
    Cancel,
    Hello,
    Link,
    Move,
    Share,
    Submit,
    WantSnapshot,
    Welcome,
    WorkerCard,
)
from worker.build import (
    NUM_SCRATCH_BLOCKS,
    Progress,
    make_engine,
    make_runner,
    make_staging,
    make_transport,
)
from worker.config import WorkerConfig
from worker.guard import this_process
from worker.links import Links
from worker.loop import StepLoop
from worker.outbox import SessionOutbox
from worker.peers import PeerBook
from worker.sources import Sources
from worker.tickets import Peer

log = logging.getLogger(__name__)


class Worker:
    """Runs on one event loop; `start` returns when routers may send work.

    `on_crash(error)` is called when the engine breaks: the process should end then.
    """

    def __init__(
        self,
        config: WorkerConfig,
        role: Role,
        policy: Policy,
        *,
        on_crash: Callable[[Exception], None],
        progress: Progress = lambda loaded, total: None,
    ) -> None:
        self.config = config
        worker_id = config.worker_id or f"{role.value}-{uuid.uuid4().hex[:6]}"
        self.ref = WorkerRef(worker_id, draw_incarnation())
        self._role = role
        self._policy = policy
        self._on_crash = on_crash
        self._progress = progress
        self._announcements: list[asyncio.Task[None]] = []
        self._broken = asyncio.Event()
        self.joined = asyncio.Event()
        """Set when a router has taken this worker into its fleet."""

    async def start(self) -> WorkerCard:
        """Raises EngineError for a model or settings that cannot work, PortTaken for the port,
        BadCertificate for a file of `tls`."""
        transport = await self._make_machine()
        self._loop = loop = asyncio.get_running_loop()
        self._peers = PeerBook(self._hello, self, self.config.tls)
        self._outbox = SessionOutbox(loop, self._peers)
        block_bytes = self._engine.runner.layout.block_bytes
        self._courier = Courier(
            transport,
            self._link_failed,
            self._crashed,
            max_blocks_in_flight=self.config.max_bytes_in_flight // block_bytes,
        )
        self._courier.start()
        self._steps = StepLoop(
            self.ref,
            self._content,
            self.config,
            self._engine,
            self._courier,
            self._outbox,
            self._crashed,
        )
        self._sources = Sources(
            self._courier,
            self._peers,
            self._steps.incoming,
            self._steps.call,
            direct_access=transport.direct_access,
            fence_deadline_s=self.config.fence_deadline_s,
        )
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        service = SessionService(self._on_session, self.config.tls)
        self._server.add_generic_rpc_handlers((service,))
        port = bind(self._server, self.config.host, self.config.port, "port", self.config.tls)
        self.card = self._make_card(f"{self.config.host}:{port}", transport)
        self._links = Links(
            self.config,
            self.card,
            self._engine.runner,
            self._region,
            self._staging,
            self._courier,
            transport.direct_access,
            self._tell_link,
            self._peers.hang_up,
        )
        await self._server.start()
        self._steps.start()
        self._join(self.config.routers)
        return self.card

    async def drain(self, timeout_s: float) -> bool:
        """Take no new work and wait until all is done; False when time ran out."""
        drained = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._steps.call(lambda: self._steps.drain(lambda: loop.call_soon_threadsafe(drained.set)))
        ends = [asyncio.create_task(event.wait()) for event in (drained, self._broken)]
        await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        return drained.is_set()

    async def stop(self) -> None:
        for task in self._announcements:
            task.cancel()
        await asyncio.gather(*self._announcements, return_exceptions=True)
        await self._peers.close()
        for session in list(self._outbox.routers.values()):
            session.close("the worker stops")
        await self._server.stop(grace=0.5)
        await asyncio.to_thread(self._steps.stop)
        await asyncio.to_thread(self._courier.stop)

    @property
    def engine(self) -> Engine:
        """For tests and reports; only the step loop's thread may change it."""
        return self._engine

    @property
    def idle(self) -> bool:
        return self._steps.idle

    async def _make_machine(self) -> Transport:
        def make() -> tuple[Engine, CacheRegion, CacheRegion, Transport]:
            runner = make_runner(self.config, self._progress)
            engine, region = make_engine(self.config, runner, self._policy)
            staging = make_staging(self.config, region)
            transport = make_transport(self.config, str(self.ref))
            transport.register(region, engine.pool.num_blocks + NUM_SCRATCH_BLOCKS, staging)
            return engine, region, staging, transport

        made = await asyncio.to_thread(make)
        self._engine, self._region, self._staging, transport = made
        runner = self._engine.runner
        self._content = f"{runner.model_hash} checked by {runner.digest_kind}"
        return transport

    def _make_card(self, address: str, transport: Transport) -> WorkerCard:
        runner = self._engine.runner
        return WorkerCard(
            ref=self.ref,
            role=self._role,
            address=address,
            model=self.config.model_name or Path(self.config.model).name,
            model_hash=runner.model_hash,
            layout=runner.layout,
            content=self._content,
            num_blocks=self._engine.pool.num_blocks,
            max_model_len=self._engine.max_sequence_tokens,
            transport=transport.name,
            process=this_process(),
        )

    def _hello(self) -> Hello:
        return Hello(
            caller_id=str(self.ref),
            worker=self.ref,
            process=this_process(),
            address=self.card.address,
        )

    def _join(self, routers: tuple[str, ...]) -> None:
        def announce_to(address: str) -> Coroutine[Any, Any, None]:
            return announce(address, lambda: self.card, lambda ok: None, self.config.tls)

        for address in routers:
            announcing = for_each_address(address, announce_to)
            task = asyncio.create_task(announcing, name=f"join {address}")
            self._announcements.append(task)

    async def _on_session(self, hello: Hello, session: Session) -> None:
        if hello.worker is not None:
            await self._sources.serve(hello, session, self.card)
        else:
            session.send(Welcome(card=self.card))
            await self._serve_router(hello.caller_id, session)

    async def _serve_router(self, router_id: str, session: Session) -> None:
        steps = self._steps
        former = self._outbox.routers.get(router_id)
        if former is not None:
            former.close("the same router has opened another session")
            steps.call(lambda: steps.router_lost(router_id))
        self._outbox.routers[router_id] = session
        async for message in session.messages():
            match message:
                case Submit():
                    steps.call(lambda m=message: steps.submit(router_id, m))  # type: ignore[misc]
                case Cancel():
                    steps.call(lambda m=message: steps.cancel(m.leg))  # type: ignore[misc]
                case Move():
                    steps.call(lambda m=message: steps.move(m.leg, m.destination))  # type: ignore[misc]
                case Share():
                    steps.call(lambda m=message: steps.share(router_id, m))  # type: ignore[misc]
                case WantSnapshot():
                    self.joined.set()
                    links = self._links.measured
                    steps.call(lambda links=links: steps.send_snapshot(router_id, links))  # type: ignore[misc]
                case _:
                    log.warning("router %s sent %s", router_id, type(message).__name__)
        if self._outbox.routers.get(router_id) is session:
            del self._outbox.routers[router_id]
            steps.call(lambda: steps.router_lost(router_id))

    def _crashed(self, error: Exception) -> None:
        """Called in the step loop's or the courier's thread."""

        def tell() -> None:
            if not self._broken.is_set():
                self._broken.set()
                self._on_crash(error)

        self._loop.call_soon_threadsafe(tell)

    def _link_failed(self, link: str, cause: str) -> None:
        """Called in the courier's thread: the session goes down with its link."""
        log.warning("link %s failed: %s", link, cause)
        self._loop.call_soon_threadsafe(self._peers.hang_up, link, cause)

    def _tell_link(self, link: Link) -> None:
        self._steps.call(lambda: self._outbox.to_routers(link))

    # What `worker.peers.PeerEvents` asks for: everything goes on in the step loop's thread.

    def on_message(self, message: Handoff, peer: Peer) -> None:
        self._steps.hear(message, peer)

    def on_connected(self, peer: Peer, opened: OpenedSession) -> None:
        self._links.open(peer, opened.card, opened.admission)

    async def on_destination_lost(self, peer: Peer, cause: str) -> None:
        self._steps.call(lambda: self._steps.outgoing.peer_lost(peer, cause))
        await self._links.close(peer)

    def on_unreachable(self, peer: Peer, cause: str) -> None:
        self._steps.call(lambda: self._steps.outgoing.peer_lost(peer, cause))
