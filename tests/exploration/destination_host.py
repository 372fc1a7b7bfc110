"""The destination's stand-in host: what worker/incoming.py does, without an engine under it."""

from __future__ import annotations

from typing import Any

from kv_transfer.destination import DestinationHandoff, DestinationState
from kv_transfer.effects import Adopt, Effect, FreePages, Send
from tests.exploration.desk import Desk, allocate
from tests.exploration.legs import BLOCK_SIZE, DEADLINE_S, LONG_AFTER, leg_number
from tests.exploration.state import FREE, DestinationLeg, tag
from wire.handoff import Abort, Handoff, Offer, Refuse, RefuseReason


class DestinationHost:
    """Plays one event on the destination's side of a state."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def receive(self, message: Handoff) -> None:
        leg = leg_number(message.leg)
        if message.destination.incarnation != self.desk.destination_incarnation:
            return  # stale
        if self.desk.destinations[leg].machine is not None:
            self._call(leg, "receive", message)
        elif isinstance(message, Offer):
            self._answer(leg, message)

    def refuse(self, offer: Offer, reason: RefuseReason) -> None:
        self.desk.send(Refuse(**offer.ends, reason=reason))

    def cancel(self, leg: int) -> None:
        if self.desk.destinations[leg].machine is None:
            self._change(leg, buried=True)
        else:
            self._call(leg, "abort", "cancelled")

    def tick(self, leg: int) -> None:
        self._call(leg, "tick", LONG_AFTER)

    def ask_for_quiet(self, leg: int) -> None:
        cause = "waiting for quiescence"
        self.desk.send(Abort(**self.machine(leg).offer.ends, cause=cause, by_source=False))

    def source_lost(self, leg: int) -> None:
        self._call(leg, "source_lost", "connection lost")

    def source_gone(self, leg: int) -> None:
        self._call(leg, "source_fenced")

    def end(self, leg: int) -> None:
        """The answer of a sequence that runs here has ended."""
        desk = self.desk
        for page in desk.destinations[leg].running:
            desk.destination_owners[page] = desk.destination_memory[page] = FREE
        self._change(leg, machine=None, running=(), buried=True)

    def crash(self) -> None:
        """Nothing is remembered, and the memory that writes were meant for is gone."""
        desk = self.desk
        desk.destination_incarnation += 1
        desk.destination_owners = [FREE] * desk.scope.destination_blocks
        desk.destination_memory = [FREE] * desk.scope.destination_blocks
        desk.next_epoch = 1
        desk.destinations = [
            DestinationLeg(num_adoptions=it.num_adoptions) for it in desk.destinations
        ]

    def machine(self, leg: int) -> DestinationHandoff:
        number = self.desk.destinations[leg].machine
        assert number is not None
        machine = self.desk.machines[number]
        assert isinstance(machine, DestinationHandoff)
        return machine

    def _answer(self, leg: int, offer: Offer) -> None:
        desk = self.desk
        if desk.destinations[leg].buried:
            self.refuse(offer, RefuseReason.STALE)
            return
        pages = allocate(desk.destination_owners, desk.scope.num_blocks, desk.next_epoch)
        if pages is None:
            self.refuse(offer, RefuseReason.FULL)
            return
        held, pages = pages[: desk.scope.num_held], pages[desk.scope.num_held :]
        for block, page in enumerate(held):
            desk.destination_memory[page] = tag(leg, block)
        machine = desk.machines.code.destination(
            offer,
            held,
            pages,
            epoch=desk.next_epoch,
            block_size=BLOCK_SIZE,
            digest=desk.machines.digest,
            deadline=DEADLINE_S,
        )
        desk.next_epoch += 1
        self._change(leg, machine=desk.machines.add(machine))
        self._call(leg, "grant")

    def _call(self, leg: int, method: str, *args: Any) -> None:
        desk, number = self.desk, self.desk.destinations[leg].machine
        assert number is not None
        number, effects = desk.machines.call(number, tuple(desk.destination_memory), method, *args)
        self._change(leg, machine=number)
        for effect in effects:
            self._perform(leg, effect)
        if self.machine(leg).state is DestinationState.CLOSED:
            self._change(leg, machine=None, buried=True)

    def _perform(self, leg: int, effect: Effect) -> None:
        match effect:
            case Send():
                self.desk.send(effect.message)
            case Adopt():
                num_adoptions = self.desk.destinations[leg].num_adoptions + 1
                self._change(leg, running=effect.blocks, num_adoptions=num_adoptions)
            case FreePages():
                self._free(leg, effect.blocks)

    def _free(self, leg: int, pages: tuple[int, ...]) -> None:
        desk, epoch = self.desk, self.machine(leg).epoch
        for page in pages:
            if desk.destination_owners[page] != epoch:
                desk.blame(f"invariant 1: page {page} is freed by a leg that does not own it")
            desk.destination_owners[page] = desk.destination_memory[page] = FREE

    def _change(self, leg: int, **changes: Any) -> None:
        self.desk.destinations[leg] = self.desk.destinations[leg]._replace(**changes)
