"""Messages between processes, and the links between workers: both end when a worker dies."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import Protocol

from sim.clock import LocalTime, VirtualClock
from sim.machine import MachineModel
from wire.handoff import Handoff
from wire.identity import WorkerRef
from wire.messages import Destination, Message
from wire.reports import LinkReport
from worker.steps.step_context import Peer

MESSAGE_S = 0.5e-3
"""Latency of a message between two processes, in seconds."""


class RouterHost(Protocol):
    """The router, as workers reach it."""

    def receive(self, sender: WorkerRef, messages: list[Message]) -> None: ...

    def worker_lost(self, ref: WorkerRef, cause: str) -> None:
        """The session with this worker ended."""
        ...


class WorkerHost(Protocol):
    """A worker, as the router and other workers reach it."""

    def receive(self, message: Message) -> None: ...

    def receive_handoff(self, message: Handoff, peer: Peer) -> None: ...

    def destination_lost(self, peer: Peer, cause: str) -> None:
        """The link by which this worker hands over blocks ended, or could not be opened."""
        ...

    def source_lost(self, link: str, cause: str) -> None:
        """The link by which this worker is handed blocks ended."""
        ...


class Network:
    """Every message takes MESSAGE_S. Messages that a worker sends after its death are dropped."""

    def __init__(self, clock: VirtualClock) -> None:
        self.workers: dict[WorkerRef, WorkerHost] = {}
        """Workers that live."""
        self.router: RouterHost
        self._clock = clock
        self._died_s: dict[WorkerRef, float] = {}
        self._links: dict[str, tuple[WorkerRef, WorkerRef]] = {}
        """Sources and destinations of the links that are open."""
        self._link_names: dict[tuple[WorkerRef, WorkerRef], str] = {}
        self._numbers = count(1)

    def to_worker(self, ref: WorkerRef, message: Message) -> None:
        """Send the router's message now."""

        def arrive() -> None:
            if ref in self.workers:
                self.workers[ref].receive(message)

        self._clock.after(MESSAGE_S, arrive)

    def to_router(self, sender: WorkerRef, sent_s: float, messages: list[Message]) -> None:
        self._carry(sender, sent_s, lambda: self.router.receive(sender, messages))

    def over_link(self, sender: WorkerRef, sent_s: float, link: str, message: Handoff) -> None:
        """Send a message from one end of the link to the other."""

        def arrive() -> None:
            ends = self._links.get(link)
            if ends is not None:
                source, destination = ends
                receiver = self.workers.get(destination if sender == source else source)
                if receiver is not None:
                    receiver.receive_handoff(message, Peer(sender, link))

        self._carry(sender, sent_s, arrive)

    def link_to(self, destination: WorkerRef, source: WorkerRef, now: float) -> str:
        """Name of the open link, or of a new one; the source is told if the destination is dead."""
        name = self._link_names.get((source, destination))
        if name is None:
            name = f"{source}>{destination}/{next(self._numbers)}"
            if destination in self.workers:
                self._links[name] = source, destination
                self._link_names[source, destination] = name
            else:
                self._carry(source, now, lambda: self._tell_unreachable(source, destination, name))
        return name

    def cut_link(self, link: str, cause: str, now: float) -> None:
        """Tell both ends."""
        self._clock.at(now + MESSAGE_S, lambda: self._close(link, cause))

    def kill(self, ref: WorkerRef) -> None:
        """End the worker now; its peers and the router learn of it when their sessions break."""
        del self.workers[ref]
        self._died_s[ref] = self._clock.now
        self._clock.after(MESSAGE_S, lambda: self._break_sessions(ref, f"{ref} died"))

    def _break_sessions(self, ref: WorkerRef, cause: str) -> None:
        for link, ends in list(self._links.items()):
            if ref in ends:
                self._close(link, cause)
        self.router.worker_lost(ref, cause)

    def _close(self, link: str, cause: str) -> None:
        ends = self._links.pop(link, None)
        if ends is None:
            return
        source, destination = ends
        del self._link_names[ends]
        if source in self.workers:
            self.workers[source].destination_lost(Peer(destination, link), cause)
        if destination in self.workers:
            self.workers[destination].source_lost(link, cause)

    def _tell_unreachable(self, source: WorkerRef, destination: WorkerRef, link: str) -> None:
        host = self.workers.get(source)
        if host is not None:
            host.destination_lost(Peer(destination, link), f"{destination} is not there")

    def _carry(self, sender: WorkerRef, sent_s: float, arrive: Callable[[], None]) -> None:
        def deliver() -> None:
            if sent_s <= self._died_s.get(sender, math.inf):
                arrive()

        self._clock.at(sent_s + MESSAGE_S, deliver)


class VirtualOutbox:
    """Implements `worker.steps.step_context.Outbox`: messages leave at the next flush."""

    def __init__(
        self, me: WorkerRef, machine: MachineModel, time: LocalTime, network: Network
    ) -> None:
        self._me = me
        self._machine = machine
        self._time = time
        self._network = network
        self._told_links: set[str] = set()
        self._for_router: list[Message] = []

    def to_router(self, router_id: str, message: Message) -> None:
        self._for_router.append(message)

    def to_routers(self, message: Message) -> None:
        self._for_router.append(message)

    def to_worker(self, peer: Destination, message: Handoff) -> None:
        now = self._time.now
        link = self._network.link_to(peer.ref, self._me, now)
        if link not in self._told_links:
            self._told_links.add(link)
            self._for_router.append(self._speed(peer.ref))
        self._network.over_link(self._me, now, link, message)

    def over_link(self, link: str, message: Handoff) -> None:
        self._network.over_link(self._me, self._time.now, link, message)

    def cut_link(self, link: str, cause: str) -> None:
        self._network.cut_link(link, cause, self._time.now)

    def flush(self) -> None:
        if self._for_router:
            messages, self._for_router = self._for_router, []
            self._network.to_router(self._me, self._time.now, messages)

    def _speed(self, destination: WorkerRef) -> LinkReport:
        """The result of measuring a new link."""
        return LinkReport(
            destination=destination,
            latency_s=self._machine.latency_s,
            bytes_per_s=self._machine.bytes_per_s,
            transport="virtual",
            kind="virtual",
        )
