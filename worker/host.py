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
from engine.errors import ConfigError
from runtime.address import is_wildcard, join_address
from runtime.handoffs import HandoffCounters
from runtime.listen import bind
from runtime.session import SERVER_OPTIONS, Session, SessionService
from wire.identity import Role, WorkerRef, draw_incarnation
from wire.messages import Hello, Welcome, WorkerCard
from wire.reports import LinkReport, Report
from worker.build import MakePolicies, Progress, make_machine, processes_of
from worker.config import WorkerConfig
from worker.rank.this_process import this_process
from worker.sessions.fleet_membership import FleetMembership
from worker.sessions.handoff_events import HandoffEvents
from worker.sessions.inbound import InboundSessions
from worker.sessions.links import Links
from worker.sessions.outbox import SessionOutbox
from worker.sessions.peer_book import PeerBook
from worker.sessions.routers import Routers
from worker.sessions.status_port import StatusPort, WorkerPhase
from worker.standstill import watch_turns
from worker.steps.step_context import StepContext
from worker.steps.step_loop import StepLoop

log = logging.getLogger(__name__)


class Worker:
    """Runs on one event loop; `start` returns when routers may send work.

    `on_crash(error)` is called when the engine breaks: the process should end then.
    """

    def __init__(
        self,
        config: WorkerConfig,
        role: Role,
        make_policies: MakePolicies,
        *,
        on_crash: Callable[[Exception], None],
        progress: Progress = lambda loaded, total: None,
    ) -> None:
        self.config = config
        worker_id = config.worker_id or f"{role.value}-{uuid.uuid4().hex[:6]}"
        self.ref = WorkerRef(worker_id, draw_incarnation())
        self._role = role
        self._make_policies = make_policies
        self._on_crash = on_crash
        self._progress = progress
        self._membership = FleetMembership(config.routers, config.tls)
        self._broken = asyncio.Event()
        self.joined = asyncio.Event()
        """Set when a router has taken this worker into its fleet."""
        self.phase = WorkerPhase.LOADING
        self.known: WorkerCard | None = None
        self._status: StatusPort | None = None
        self._metrics_address: str | None = None
        self._started_at = time.time()

    async def start(self) -> WorkerCard:
        """Raises EngineError for a model or settings that cannot work, PortTaken for the port,
        BadCertificate for a file of `tls`."""
        if is_wildcard(self.config.host):
            raise ConfigError(
                f"host is {self.config.host}, where routers and other workers reach nobody: give "
                "an address of this machine"
            )
        await self._serve_status()
        self._loop = asyncio.get_running_loop()
        self._machine = await asyncio.to_thread(
            make_machine,
            self.config,
            str(self.ref),
            self._role,
            self._make_policies,
            self._progress,
            self._crashed,
        )
        self._engine, self._endpoint = self._machine.engine, self._machine.endpoint
        self._make_step_loop()
        self.card = self._make_card(join_address(self.config.host, self._bind()))
        self._make_sessions()
        await self._server.start()
        self._steps.start()
        self._watching = asyncio.create_task(
            watch_turns(lambda: self._steps.num_turns, self.config.step_timeout_s, self._crashed)
        )
        self.known, self.phase = self.card, WorkerPhase.JOINING
        self._membership.start(self.card)
        return self.card

    async def drain(self, timeout_s: float) -> bool:
        """Take no new work and wait until all is done; False when time ran out."""
        self.phase = WorkerPhase.DRAINING
        drained = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._steps.call(lambda: self._steps.drain(lambda: loop.call_soon_threadsafe(drained.set)))
        ends = [asyncio.create_task(event.wait()) for event in (drained, self._broken)]
        await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        return drained.is_set()

    async def stop(self) -> None:
        self._watching.cancel()
        await self._membership.stop()
        await self._peers.close()
        for session in list(self._outbox.routers.values()):
            session.close("the worker stops")
        await self._server.stop(grace=0.5)
        await asyncio.to_thread(self._steps.stop)
        await asyncio.to_thread(self._endpoint.stop)
        await asyncio.to_thread(self._engine.runner.close)
        if self._status is not None:
            await self._status.stop()

    @property
    def engine(self) -> Engine:
        """For tests and reports; only the step loop's thread may change it."""
        return self._engine

    @property
    def idle(self) -> bool:
        """True while no attempt is here."""
        return self._steps.idle

    # Implements `worker.sessions.status_port.Watched`.

    @property
    def refusal(self) -> str | None:
        return self._membership.refusal

    @property
    def last_report(self) -> Report | None:
        return self._steps.last_report

    @property
    def measured_links(self) -> list[tuple[WorkerRef, LinkReport]]:
        return [(self.ref, link) for link in self._links.measured]

    @property
    def arrived(self) -> HandoffCounters:
        return self._steps.destination_handoffs.arrived

    async def _serve_status(self) -> None:
        """Comes first, so that a worker which loads can be watched."""
        host, port = self.config.host, self.config.metrics_port
        if port is not None:
            self._status = StatusPort(self)
            bound = await self._status.start(host, port)
            self._metrics_address = join_address(host, bound)

    def _make_step_loop(self) -> None:
        self._peers = PeerBook(self.config.tls)
        self._outbox = SessionOutbox(self._loop, self._peers)
        content = self._machine.content
        context = StepContext(
            self.ref,
            content,
            self.config,
            self._engine,
            self._endpoint,
            self._outbox,
            device=self._machine.device,
        )
        self._steps = StepLoop(context, self._crashed)

    def _make_sessions(self) -> None:
        steps, peers, endpoint = self._steps, self._peers, self._endpoint
        endpoint.start(self._link_failed, self._crashed)
        self._links = Links(self.config, self.card, endpoint, self._report_link, peers.hang_up)
        self._routers = Routers(steps, self._outbox, self._links, self._joined)
        self._sources = InboundSessions(
            endpoint,
            peers,
            steps.destination_handoffs,
            steps.call,
            fence_deadline_s=self.config.fence_deadline_s,
        )
        peers.start(self._hello, HandoffEvents(steps, self._links))

    def _bind(self) -> int:
        """The port at which the server will listen."""
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        service = SessionService(self._on_session, self.config.tls)
        self._server.add_generic_rpc_handlers((service,))
        return bind(self._server, self.config.host, self.config.port, "port", self.config.tls)

    def _make_card(self, address: str) -> WorkerCard:
        runner = self._engine.runner
        return WorkerCard(
            ref=self.ref,
            role=self._role,
            address=address,
            model=self.config.model_name or Path(self.config.model).name,
            model_hash=runner.model_hash,
            layout=self._endpoint.layout,
            content=self._machine.content,
            num_blocks=self._engine.pool.num_blocks,
            max_model_len=runner.max_model_len,
            policies=self._machine.policies,
            transport=self._endpoint.transport_name,
            process=this_process(),
            on_gpu=self._machine.device != "cpu",
            device=self._machine.device_kind,
            metrics_address=self._metrics_address,
            tokenizer=self._machine.tokenizer,
            started_at=self._started_at,
        )

    def _hello(self) -> Hello:
        return Hello(
            caller_id=str(self.ref),
            worker=self.ref,
            layout=self._endpoint.layout,
            processes=processes_of(self._engine.runner),
            address=self.card.address,
        )

    def _joined(self) -> None:
        """A router has taken this worker into its fleet."""
        self.joined.set()
        if self.phase is WorkerPhase.JOINING:
            self.phase = WorkerPhase.READY

    async def _on_session(self, hello: Hello, session: Session) -> None:
        if hello.worker is not None:
            await self._sources.serve(hello, session, self.card)
        else:
            session.send(Welcome(card=self.card))
            await self._routers.serve(hello.caller_id, session)

    def _crashed(self, error: Exception) -> None:
        """The worker cannot go on. Called in any thread."""

        def tell() -> None:
            if not self._broken.is_set():
                self._broken.set()
                self._on_crash(error)

        self._loop.call_soon_threadsafe(tell)

    def _link_failed(self, link: str, cause: str) -> None:
        """End a failed link's session. Called in a transfer thread."""
        log.warning("link %s failed: %s", link, cause)
        self._loop.call_soon_threadsafe(self._peers.hang_up, link, cause)

    def _report_link(self, link: LinkReport) -> None:
        self._steps.call(lambda: self._outbox.to_routers(link))
