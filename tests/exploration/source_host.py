"""The source's stand-in host: what worker/outgoing.py does, without an engine under it."""

from __future__ import annotations

from typing import Any

from kv_transfer.effects import Effect, HandedOver, NotHandedOver, Send, SourceClosed, Write
from kv_transfer.source import SourceHandoff
from tests.exploration.desk import Desk, allocate
from tests.exploration.legs import BLOCK_SIZE, DEADLINE_S, LAYOUT, LONG_AFTER, final, leg_number
from tests.exploration.legs import offer as offer_of
from tests.exploration.state import FREE, Flight, SourceLeg, tag
from wire.handoff import Abort, Grant, Handoff, Quiesced


class SourceHost:
    """Plays one event on the source's side of a state."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def start(self, leg: int) -> None:
        desk, num_blocks = self.desk, self.desk.scope.num_blocks
        blocks = allocate(desk.source_owners, num_blocks, leg + 1)
        assert blocks is not None
        offer = offer_of(leg, num_blocks, desk.source_incarnation, desk.destination_incarnation)
        machine = desk.machines.code.source(
            offer, LAYOUT, desk.machines.digest, transfer_deadline_s=DEADLINE_S
        )
        desk.sources[leg] = SourceLeg("running", "open", desk.machines.add(machine), blocks)
        self._call(leg, "start", 0.0)
        self._call(leg, "computed", blocks, 0)

    def compute(self, leg: int) -> None:
        """One chunk of prefill, of one block; after the last one the first token is drawn."""
        desk, it = self.desk, self.desk.sources[leg]
        num_computed = it.num_computed + 1
        desk.source_memory[it.blocks[it.num_computed]] = tag(leg, it.num_computed)
        self._change(leg, num_computed=num_computed)
        num_blocks = desk.scope.num_blocks
        num_tokens = min(num_computed * BLOCK_SIZE, num_blocks * BLOCK_SIZE - 1)
        self._call(leg, "computed", it.blocks, num_tokens)
        if num_computed == num_blocks and desk.sources[leg].stage == "running":
            self._change(leg, stage="held")
            self._call(leg, "finish", final(leg, num_blocks), 0.0)

    def end(self, leg: int) -> None:
        """The answer of a sequence that was kept has ended; a pinned one waits for its writes."""
        if self.desk.sources[leg].machine is None:
            self._drop(leg)
        else:
            self._change(leg, stage="held")

    def cancel(self, leg: int) -> None:
        self._change(leg, outcome="cancelled")
        self._call(leg, "abort", "cancelled")
        it = self.desk.sources[leg]
        if it.machine is None:
            self._drop(leg)
        elif it.stage == "running":
            self._change(leg, stage="held")

    def receive(self, message: Handoff) -> None:
        leg = leg_number(message.leg)
        if message.source.incarnation != self.desk.source_incarnation:
            return  # stale
        if self.desk.sources[leg].machine is not None:
            self._call(leg, "receive", message, 0.0)
        elif isinstance(message, Grant | Abort):
            self.desk.send(Quiesced(**message.ends, epoch=None))

    def tick(self, leg: int) -> None:
        self._call(leg, "tick", LONG_AFTER)

    def peer_lost(self, leg: int) -> None:
        self._call(leg, "peer_lost", "connection lost")

    def wrote(self, flight: Flight) -> None:
        self._call(flight.leg, "wrote", flight.write_id, 0.0, 0.0)

    def write_failed(self, flight: Flight) -> None:
        self._call(flight.leg, "write_failed", flight.write_id, "link broke")

    def crash(self) -> None:
        desk = self.desk
        desk.source_incarnation += 1
        for leg, it in enumerate(desk.sources):
            if it.stage not in ("waiting", "over"):
                self._change(leg, machine=None, outcome="crashed")
                self._drop(leg)

    def _call(self, leg: int, method: str, *args: Any) -> None:
        desk, number = self.desk, self.desk.sources[leg].machine
        if number is None:
            return
        number, effects = desk.machines.call(number, tuple(desk.source_memory), method, *args)
        self._change(leg, machine=number)
        for effect in effects:
            self._perform(leg, effect)

    def _perform(self, leg: int, effect: Effect) -> None:
        it = self.desk.sources[leg]
        wanted = it.outcome in ("open", "kept")
        match effect:
            case Send():
                self.desk.send(effect.message)
            case Write():
                self._post(leg, effect)
            case HandedOver() if wanted:
                self._change(leg, outcome="handed over")
            case NotHandedOver() if wanted and effect.ambiguous:
                self._change(leg, outcome="failed")
            case NotHandedOver() if wanted:
                self._change(leg, outcome="kept", stage="running")
            case SourceClosed():
                self._change(leg, machine=None)
                if not wanted or it.stage == "held":
                    self._drop(leg)

    def _post(self, leg: int, write: Write) -> None:
        desk, it = self.desk, self.desk.sources[leg]
        assert it.machine is not None
        machine = desk.machines[it.machine]
        assert isinstance(machine, SourceHandoff)
        assert machine._grant is not None
        tags = tuple(desk.source_memory[block] for block in write.blocks)
        desk.flights.append(
            Flight(
                leg,
                write.write_id,
                desk.source_incarnation,
                machine.offer.destination.incarnation,
                machine._grant.epoch,
                write.blocks,
                write.pages,
                tags,
            )
        )

    def _change(self, leg: int, **changes: Any) -> None:
        self.desk.sources[leg] = self.desk.sources[leg]._replace(**changes)

    def _drop(self, leg: int) -> None:
        desk = self.desk
        for block in desk.sources[leg].blocks:
            desk.source_owners[block] = desk.source_memory[block] = FREE
        self._change(leg, stage="over", blocks=())
