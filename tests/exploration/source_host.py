"""The source's stand-in host: what worker/outgoing.py does, without an engine under it."""

from __future__ import annotations

from typing import Any

from kv_transfer.effects import (
    CutLink,
    Effect,
    HandedOver,
    NotHandedOver,
    Send,
    SourceClosed,
    Write,
)
from kv_transfer.source import SourceHandoff
from tests.exploration.desk import Desk
from tests.exploration.legs import (
    BLOCK_SIZE,
    NOW,
    destination_ref,
    final,
    leg_number,
    place_of,
)
from tests.exploration.legs import offer as offer_of
from tests.exploration.state import MISSES_THE, PART, Flight, Link, Part, SourceLeg, tag
from wire.handoff import Abort, Grant, Handoff, Quiesced
from wire.identity import WorkerRef


class SourceHost:
    """Plays one event on the source's side of a state."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.side = desk.source

    def start(self, leg: int) -> None:
        blocks = self.side.allocate(self.desk.scope.num_blocks, leg + 1)
        assert blocks is not None
        self.side.change(leg, stage="running", blocks=blocks)
        self._offer(leg)

    def move(self, leg: int) -> None:
        """A sequence that was kept is offered again; if it decodes, it pauses."""
        num_blocks = self.desk.scope.num_blocks
        whole = self.side.legs[leg].num_computed == num_blocks
        self.side.change(leg, outcome="open", stage="held" if whole else "running")
        self._offer(leg)
        if whole:
            self._call(leg, "finish", final(leg, num_blocks), NOW)

    def compute(self, leg: int) -> None:
        """One chunk of prefill, of one block; after the last one the first token is drawn."""
        it, num_blocks = self.side.legs[leg], self.desk.scope.num_blocks
        num_computed = it.num_computed + 1
        self.side.store(it.blocks[it.num_computed], tag(leg, it.num_computed))
        self.side.change(leg, num_computed=num_computed, half_computed=False)
        self._computed(leg)
        if num_computed == num_blocks and self.side.legs[leg].stage == "running":
            self.side.change(leg, stage="held")
            self._call(leg, "finish", final(leg, num_blocks), NOW)

    def compute_layer(self, leg: int) -> None:
        """One of two layers of the last block."""
        it = self.side.legs[leg]
        self.side.store(it.blocks[it.num_computed], tag(leg, it.num_computed) + MISSES_THE["rest"])
        self.side.change(leg, half_computed=True)
        self._call(leg, "computed_layers", it.blocks, 1)

    def end(self, leg: int) -> None:
        """The answer of a sequence that was kept has ended; a pinned one waits for its writes."""
        if self.side.legs[leg].machine is None:
            self._drop(leg)
        else:
            self.side.change(leg, stage="held")

    def cancel(self, leg: int) -> None:
        self.side.change(leg, outcome="cancelled")
        self._call(leg, "abort", "cancelled", NOW)
        it = self.side.legs[leg]
        if it.machine is None:
            self._drop(leg)
        elif it.stage == "running":
            self.side.change(leg, stage="held")

    def receive(self, message: Handoff, number: int) -> None:
        leg = leg_number(message.leg)
        it = self.side.legs[leg]
        if it.machine is not None and message.ends == self.machine(leg).offer.ends:
            if it.link is None:
                self.side.change(leg, link=number)
            if it.link in (None, number):
                self._call(leg, "receive", message, NOW)
        elif isinstance(message, Grant | Abort):
            self.desk.send_over(number, Quiesced(**message.ends, epoch=None))

    def tick(self, leg: int) -> None:
        self._call(leg, "tick", NOW)

    def told_of_the_end(self, link: Link) -> None:
        """The session ended: all legs that were offered over it, or might have been, are over."""
        self._lost(destination_ref(link.place, link.destination), link.number)

    def unreachable(self, ref: WorkerRef) -> None:
        """There is no session, and none can be opened: what waits for one is lost."""
        self.desk.drop_unsent(ref)
        self._lost(ref, None)

    def wrote(self, flight: Flight, checksum: int) -> None:
        self._call(flight.leg, "wrote", flight.write_id, NOW, NOW, checksum)

    def write_failed(self, flight: Flight) -> None:
        self._call(flight.leg, "write_failed", flight.write_id, "link broke")

    def crash(self) -> None:
        for leg, it in enumerate(self.side.legs):
            if it.stage not in ("waiting", "over"):
                self.side.change(leg, machine=None, link=None, outcome="crashed")
                self._drop(leg)
        self.side.restart(self.side.legs)

    def machine(self, leg: int) -> SourceHandoff:
        machine = self.desk.machines.machine(self.side.legs[leg].machine)
        assert isinstance(machine, SourceHandoff)
        return machine

    def _offer(self, leg: int) -> None:
        """To the destinations in turn, and to none twice."""
        desk, side = self.desk, self.side
        place = side.legs[leg].num_offers
        ref = destination_ref(place, desk.destinations[place].incarnation)
        offer = offer_of(leg, desk.scope.num_blocks, side.incarnation, ref)
        machine = desk.machines.code.source(offer, transfer_deadline_s=0.0)
        side.change(leg, machine=desk.machines.add(machine), link=None, num_offers=place + 1)
        self._call(leg, "start", NOW)
        self._computed(leg)

    def _computed(self, leg: int) -> None:
        it = self.side.legs[leg]
        num_tokens = min(it.num_computed, self.desk.scope.num_blocks) * BLOCK_SIZE
        self._call(leg, "computed", it.blocks, num_tokens)

    def _lost(self, ref: WorkerRef, number: int | None) -> None:
        for leg, it in enumerate(self.side.legs):
            affected = it.machine is not None and it.link in (None, number)
            if affected and self.machine(leg).offer.destination == ref:
                self._call(leg, "peer_lost", "connection lost")

    def _call(self, leg: int, method: str, *args: Any) -> None:
        number = self.side.legs[leg].machine
        if number is None:
            return
        number, effects = self.desk.machines.call(number, (), method, *args)
        self.side.change(leg, machine=number)
        for effect in effects:
            self._perform(leg, effect)

    def _perform(self, leg: int, effect: Effect) -> None:
        it = self.side.legs[leg]
        wanted = it.outcome in ("open", "kept")
        match effect:
            case Send():
                self._send(it, effect.message)
            case Write():
                self._post(leg, it, effect)
            case HandedOver() if wanted:
                self.side.change(leg, outcome="handed over")
            case NotHandedOver() if wanted and effect.ambiguous:
                self.side.change(leg, outcome="failed")
            case NotHandedOver() if wanted:
                self.side.change(leg, outcome="kept", stage="running")
            case SourceClosed():
                self.side.change(leg, machine=None, link=None)
                if not wanted or it.stage == "held":
                    self._drop(leg)
            case CutLink():
                self._cut(it.link)

    def _send(self, it: SourceLeg, message: Handoff) -> None:
        if it.link is None:
            self.desk.send_to(message.destination, message)
        else:
            self.desk.send_over(it.link, message)

    def _cut(self, number: int | None) -> None:
        assert number is not None
        if self.desk.links[number].session == "open":
            self.desk.end_at_source(number)

    def _post(self, leg: int, it: SourceLeg, write: Write) -> None:
        """A write over a link that is torn down is never sent."""
        desk, offer = self.desk, self.machine(leg).offer
        grant = self.machine(leg)._grant
        assert grant is not None
        assert it.link is not None
        carries = it.link in desk.links and desk.links[it.link].carries
        flight = Flight(
            leg,
            write.write_id,
            it.link,
            "posted" if carries else "unsent",
            place_of(offer.destination),
            offer.destination.incarnation,
            grant.epoch,
            write.blocks,
            write.pages,
            tuple(self.side.memory[block] % PART for block in write.blocks),
            write.first_page,
            _part(write),
        )
        desk.flights.append(flight)

    def _drop(self, leg: int) -> None:
        self.side.free(self.side.legs[leg].blocks)
        self.side.change(leg, stage="over", blocks=())


def _part(write: Write) -> Part:
    if write.layers is None:
        return "whole"
    return "rest" if write.layers.start else "first"
