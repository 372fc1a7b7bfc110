"""The source's stand-in host: as worker/steps/source_handoffs.py, without an engine."""

from __future__ import annotations

from typing import Any

from kv_transfer.handoff.effects import (
    CutLink,
    Effect,
    HandedOver,
    NotHandedOver,
    Send,
    SourceClosed,
    Write,
)
from kv_transfer.handoff.source import SourceHandoff
from kv_transfer.layout.block_write import BlockWrite
from tests.exploration.attempts import (
    BLOCK_SIZE,
    NOW,
    attempt_number,
    destination_ref,
    final,
    place_of,
)
from tests.exploration.attempts import offer as offer_of
from tests.exploration.desk import Desk
from tests.exploration.state import MISSES_THE, PART, Flight, Link, Part, SourceAttempt, tag
from wire.handoff import Abort, Grant, Handoff, Quiesced
from wire.identity import WorkerRef


class SourceHost:
    """Plays one event on the source's side of a state."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.side = desk.source

    def start(self, attempt_id: int) -> None:
        blocks = self.side.allocate(self.desk.scope.num_blocks, attempt_id + 1)
        assert blocks is not None
        self.side.change(attempt_id, stage="running", blocks=blocks)
        self._offer(attempt_id)

    def move(self, attempt_id: int) -> None:
        """A sequence that was kept is offered again; if it decodes, it pauses."""
        num_blocks = self.desk.scope.num_blocks
        whole = self.side.attempts[attempt_id].num_computed == num_blocks
        self.side.change(attempt_id, outcome="open", stage="held" if whole else "running")
        self._offer(attempt_id)
        if whole:
            self._call(attempt_id, "finish", final(attempt_id, num_blocks), NOW)

    def compute(self, attempt_id: int) -> None:
        """Compute a chunk of one block; after the last chunk the first token is sampled."""
        it, num_blocks = self.side.attempts[attempt_id], self.desk.scope.num_blocks
        num_computed = it.num_computed + 1
        self.side.store(it.blocks[it.num_computed], tag(attempt_id, it.num_computed))
        self.side.change(attempt_id, num_computed=num_computed, half_computed=False)
        self._computed(attempt_id)
        if num_computed == num_blocks and self.side.attempts[attempt_id].stage == "running":
            self.side.change(attempt_id, stage="held")
            self._call(attempt_id, "finish", final(attempt_id, num_blocks), NOW)

    def compute_layer(self, attempt_id: int) -> None:
        """Compute one of the two layers of the last block."""
        it = self.side.attempts[attempt_id]
        self.side.store(
            it.blocks[it.num_computed], tag(attempt_id, it.num_computed) + MISSES_THE["rest"]
        )
        self.side.change(attempt_id, half_computed=True)
        self._call(attempt_id, "computed_layers", it.blocks, 1)

    def end(self, attempt_id: int) -> None:
        """The answer of a sequence that was kept has ended; a pinned one waits for its writes."""
        if self.side.attempts[attempt_id].machine is None:
            self._drop(attempt_id)
        else:
            self.side.change(attempt_id, stage="held")

    def cancel(self, attempt_id: int) -> None:
        self.side.change(attempt_id, outcome="cancelled")
        self._call(attempt_id, "abort", "cancelled", NOW)
        it = self.side.attempts[attempt_id]
        if it.machine is None:
            self._drop(attempt_id)
        elif it.stage == "running":
            self.side.change(attempt_id, stage="held")

    def receive(self, message: Handoff, number: int) -> None:
        attempt_id = attempt_number(message.attempt_id)
        it = self.side.attempts[attempt_id]
        if it.machine is not None and message.ends == self.machine(attempt_id).offer.ends:
            if it.link is None:
                self.side.change(attempt_id, link=number)
            if it.link in (None, number):
                self._call(attempt_id, "receive", message, NOW)
        elif isinstance(message, Grant | Abort):
            self.desk.send_over(number, Quiesced(**message.ends, epoch=None))

    def tick(self, attempt_id: int) -> None:
        self._call(attempt_id, "tick", NOW)

    def told_of_the_end(self, link: Link) -> None:
        """The session ended: all attempts that were offered over it, or might have been, are
        over."""
        self._lost(destination_ref(link.place, link.destination), link.number)

    def unreachable(self, ref: WorkerRef) -> None:
        """There is no session, and none can be opened: attempts that wait for one are lost."""
        self.desk.drop_unsent(ref)
        self._lost(ref, None)

    def wrote(self, flight: Flight, checksum: int) -> None:
        self._call(flight.attempt_id, "wrote", flight.write_id, NOW, NOW, checksum)

    def write_failed(self, flight: Flight) -> None:
        self._call(flight.attempt_id, "write_failed", flight.write_id, "link broke")

    def crash(self) -> None:
        for attempt_id, it in enumerate(self.side.attempts):
            if it.stage not in ("waiting", "over"):
                self.side.change(attempt_id, machine=None, link=None, outcome="crashed")
                self._drop(attempt_id)
        self.side.restart(self.side.attempts)

    def machine(self, attempt_id: int) -> SourceHandoff:
        machine = self.desk.machines.machine(self.side.attempts[attempt_id].machine)
        assert isinstance(machine, SourceHandoff)
        return machine

    def _offer(self, attempt_id: int) -> None:
        """Offer to the destinations in turn, and to none twice."""
        desk, side = self.desk, self.side
        place = side.attempts[attempt_id].num_offers
        ref = destination_ref(place, desk.destinations[place].incarnation)
        offer = offer_of(attempt_id, desk.scope.num_blocks, side.incarnation, ref)
        machine = desk.machines.code.source(offer, transfer_deadline_s=0.0)
        side.change(attempt_id, machine=desk.machines.add(machine), link=None, num_offers=place + 1)
        self._call(attempt_id, "start", NOW)
        self._computed(attempt_id)

    def _computed(self, attempt_id: int) -> None:
        it = self.side.attempts[attempt_id]
        num_tokens = min(it.num_computed, self.desk.scope.num_blocks) * BLOCK_SIZE
        self._call(attempt_id, "computed", it.blocks, num_tokens)

    def _lost(self, ref: WorkerRef, number: int | None) -> None:
        for attempt_id, it in enumerate(self.side.attempts):
            affected = it.machine is not None and it.link in (None, number)
            if affected and self.machine(attempt_id).offer.destination == ref:
                self._call(attempt_id, "peer_lost", "connection lost")

    def _call(self, attempt_id: int, method: str, *args: Any) -> None:
        number = self.side.attempts[attempt_id].machine
        if number is None:
            return
        number, effects = self.desk.machines.call(number, method, *args)
        self.side.change(attempt_id, machine=number)
        for effect in effects:
            self._perform(attempt_id, effect)

    def _perform(self, attempt_id: int, effect: Effect) -> None:
        it = self.side.attempts[attempt_id]
        wanted = it.outcome in ("open", "kept")
        match effect:
            case Send():
                self._send(it, effect.message)
            case Write():
                self._post(attempt_id, it, effect)
            case HandedOver() if wanted:
                self.side.change(attempt_id, outcome="handed over")
            case NotHandedOver() if wanted and effect.ambiguous:
                self.side.change(attempt_id, outcome="failed")
            case NotHandedOver() if wanted:
                self.side.change(attempt_id, outcome="kept", stage="running")
            case SourceClosed():
                self.side.change(attempt_id, machine=None, link=None)
                if not wanted or it.stage == "held":
                    self._drop(attempt_id)
            case CutLink():
                self._cut(it.link)

    def _send(self, it: SourceAttempt, message: Handoff) -> None:
        if it.link is None:
            self.desk.send_to(message.destination, message)
        else:
            self.desk.send_over(it.link, message)

    def _cut(self, number: int | None) -> None:
        assert number is not None
        if self.desk.links[number].session == "open":
            self.desk.end_at_source(number)

    def _post(self, attempt_id: int, it: SourceAttempt, effect: Write) -> None:
        """A write over a link that is torn down is never sent."""
        desk, offer = self.desk, self.machine(attempt_id).offer
        grant = self.machine(attempt_id)._grant
        assert grant is not None
        assert it.link is not None
        write = effect.block_write
        carries = it.link in desk.links and desk.links[it.link].carries
        flight = Flight(
            attempt_id,
            effect.write_id,
            it.link,
            "posted" if carries else "unsent",
            place_of(offer.destination),
            offer.destination.incarnation,
            grant.epoch,
            write.blocks,
            write.remote_blocks,
            tuple(self.side.memory[block] % PART for block in write.blocks),
            write.first_remote_block,
            _part(write),
        )
        desk.flights.append(flight)

    def _drop(self, attempt_id: int) -> None:
        self.side.free(self.side.attempts[attempt_id].blocks)
        self.side.change(attempt_id, stage="over", blocks=())


def _part(write: BlockWrite) -> Part:
    if write.layers is None:
        return "whole"
    return "rest" if write.layers[0] else "first"
