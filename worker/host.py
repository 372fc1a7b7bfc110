"""A worker as a whole: loads the model, listens, joins fleets, steps, drains, stops."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import grpc

from engine.engine import Engine
from engine.policy import Policy
from engine.runner import CacheRegion
from kv_transfer.courier import Courier
from kv_transfer.probe import LinkSpeed, probe_link
from kv_transfer.transport import Transport
from runtime.fleet import announce
from runtime.listen import bind
from runtime.session import SERVER_OPTIONS, Session, SessionService
from wire.handoff import Handoff
from wire.identity import Role, WorkerRef, draw_incarnation
from wire.layout import fingerprint
from wire.messages import (
    Cancel,
    Destination,
    Hello,
    Link,
    Move,
    Submit,
    WantSnapshot,
    Welcome,
    WorkerCard,
)
from worker.build import NUM_SCRATCH_BLOCKS, Progress, make_engine, make_runner, make_transport
from worker.config import WorkerConfig
from worker.loop import StepLoop
from worker.outbox import SessionOutbox
from worker.peers import PeerBook

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
        self._links: dict[WorkerRef, Link] = {}
        self.joined = asyncio.Event()
        """Set when a router has taken this worker into its fleet."""

    async def start(self) -> WorkerCard:
        """Raises EngineError for a model or settings that cannot work, PortTaken for the port."""
        transport = await self._make_machine()
        self._loop = loop = asyncio.get_running_loop()
        self._peers = PeerBook(self._hello, self)
        self._outbox = SessionOutbox(loop, self._peers)
        block_bytes = self._engine.runner.layout.block_bytes
        self._courier = Courier(
            transport,
            self._crashed,
            max_blocks_in_flight=self.config.max_bytes_in_flight // block_bytes,
        )
        self._courier.start()
        self._steps = StepLoop(
            self.ref,
            self._fingerprint,
            self.config,
            self._engine,
            self._courier,
            self._outbox,
            self._crashed,
        )
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        service = SessionService(lambda hello: Welcome(card=self.card), self._on_session)
        self._server.add_generic_rpc_handlers((service,))
        port = bind(self._server, self.config.host, self.config.port, "port")
        self.card = self._make_card(f"{self.config.host}:{port}", transport)
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
        await asyncio.to_thread(self._steps.stop)
        await self._peers.close()
        for session in list(self._outbox.routers.values()):
            session.close("the worker stops")
        await self._server.stop(grace=0.5)
        await asyncio.to_thread(self._courier.stop)

    @property
    def engine(self) -> Engine:
        """For tests and reports; only the step loop's thread may change it."""
        return self._engine

    @property
    def idle(self) -> bool:
        return self._steps.idle

    async def _make_machine(self) -> Transport:
        def make() -> tuple[Engine, CacheRegion, Transport]:
            runner = make_runner(self.config, self._progress)
            engine, region = make_engine(self.config, runner, self._policy)
            transport = make_transport(self.config, str(self.ref))
            transport.register(region, engine.pool.num_blocks + NUM_SCRATCH_BLOCKS)
            return engine, region, transport

        self._engine, self._region, transport = await asyncio.to_thread(make)
        runner = self._engine.runner
        content = f"{runner.model_hash} {runner.digest_kind}"
        self._fingerprint = fingerprint(runner.layout, content)
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
            fingerprint=self._fingerprint,
            num_blocks=self._engine.pool.num_blocks,
            max_model_len=self._engine.max_sequence_tokens,
            transport=transport.name,
            transport_metadata=transport.metadata(),
        )

    def _hello(self) -> Hello:
        return Hello(caller_id=str(self.ref), worker=self.ref, address=self.card.address)

    def _join(self, routers: tuple[str, ...]) -> None:
        for address in routers:
            announcing = announce(address, lambda: self.card, lambda ok: None)
            task = asyncio.create_task(announcing, name=f"join {address}")
            self._announcements.append(task)

    async def _on_session(self, hello: Hello, session: Session) -> None:
        if hello.worker is not None:
            await self._peers.answer(hello, session)
        else:
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
                case WantSnapshot():
                    self.joined.set()
                    links = tuple(self._links.values())
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

    # What `worker.peers.PeerEvents` asks for: everything goes on in the step loop's thread.

    def on_message(self, message: Handoff, peer: Destination) -> None:
        self._steps.call(lambda: self._steps.receive(message, peer))

    def on_connected(self, card: WorkerCard) -> None:
        peer, scratch = str(card.ref), (self.card.num_blocks, card.num_blocks)
        block_bytes = self.card.layout.block_bytes

        def probe(transport: Transport) -> LinkSpeed:
            return probe_link(transport, peer, block_bytes, scratch)

        def tell(found: LinkSpeed | str) -> None:
            self._loop.call_soon_threadsafe(self._on_probed, card.ref, found)

        self._courier.connect(peer, card.transport_metadata, probe, tell)

    def _on_probed(self, peer: WorkerRef, found: LinkSpeed | str) -> None:
        if isinstance(found, str):
            log.warning("no link to %s: %s", peer, found)
            self._peers.hang_up(peer, found)
            return
        slow = found.bytes_per_s < self.config.slow_link_bytes_per_s
        log.log(
            logging.WARNING if slow else logging.INFO,
            "link to %s over %s: %s%s",
            *(peer, self.card.transport, found),
            "; that is slow: check which network UCX has found (UCX_NET_DEVICES)" if slow else "",
        )
        link = Link(destination=peer, latency_s=found.latency_s, bytes_per_s=found.bytes_per_s)
        self._links[peer] = link
        self._steps.call(lambda: self._outbox.to_routers(link))

    def on_destination_lost(self, peer: WorkerRef, cause: str) -> None:
        self._links.pop(peer, None)
        self._courier.disconnect(str(peer))
        self._steps.call(lambda: self._steps.outgoing.peer_lost(peer, cause))

    def on_source_lost(self, peer: WorkerRef, cause: str) -> None:
        self._steps.call(lambda: self._steps.incoming.source_lost(peer, cause))

    def on_unreachable(self, peer: WorkerRef, cause: str) -> None:
        now = time.monotonic()
        self._steps.call(lambda: self._steps.outgoing.peer_lost(peer, cause))
        self._steps.call(lambda: self._steps.incoming.source_unreachable(peer, now))

    def on_gone(self, peer: WorkerRef) -> None:
        self._steps.call(lambda: self._steps.outgoing.peer_lost(peer, "its process has ended"))
        self._steps.call(lambda: self._steps.incoming.source_gone(peer))
