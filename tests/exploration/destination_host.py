"""A destination's stand-in host: what worker/incoming.py does, without an engine under it."""

from __future__ import annotations

from typing import Any

from kv_transfer.destination import DestinationHandoff, DestinationState
from kv_transfer.effects import Adopt, CutLink, Effect, FreePages, Send
from tests.exploration.desk import Desk
from tests.exploration.legs import LAYOUT, NOW, leg_number
from tests.exploration.state import NO_LINK, DestinationLeg, tag
from wire.handoff import Commit, Handoff, Offer, Refuse, RefuseReason, Stale


class DestinationHost:
    """Plays one event on one destination's side of a state."""

    def __init__(self, desk: Desk, place: int) -> None:
        self.desk = desk
        self.side = desk.destinations[place]

    def receive(self, message: Handoff, number: int) -> None:
        leg = leg_number(message.leg)
        it = self.side.legs[leg]
        if it.machine is not None and message.ends == self.machine(leg).offer.ends:
            if it.link == number:
                self._call(leg, "receive", message, NOW)
        elif isinstance(message, Offer):
            self._answer(leg, message, number)
        elif isinstance(message, Commit):
            self.desk.send_over(number, Stale(**message.ends))

    def refuse(self, offer: Offer, number: int, reason: RefuseReason) -> None:
        self.desk.send_over(number, Refuse(**offer.ends, reason=reason))

    def cancel(self, leg: int) -> None:
        if self.side.legs[leg].machine is None:
            self.side.change(leg, buried=True)
        else:
            self._call(leg, "abort", "cancelled", NOW)

    def tick(self, leg: int) -> None:
        self._call(leg, "tick", NOW)

    def source_lost(self, number: int) -> None:
        for leg in self._legs_of(number):
            self._call(leg, "source_lost", "connection lost")

    def source_fenced(self, number: int) -> None:
        for leg in self._legs_of(number):
            self._call(leg, "source_fenced")

    def end(self, leg: int) -> None:
        """The answer of a sequence that runs here has ended."""
        self.side.free(self.side.legs[leg].running)
        self.side.change(leg, machine=None, running=(), buried=True)

    def crash(self) -> None:
        legs = self.side.legs
        self.side.restart(tuple(DestinationLeg(num_adoptions=it.num_adoptions) for it in legs))

    def machine(self, leg: int) -> DestinationHandoff:
        machine = self.desk.machines.machine(self.side.legs[leg].machine)
        assert isinstance(machine, DestinationHandoff)
        return machine

    def _legs_of(self, number: int) -> list[int]:
        legs = enumerate(self.side.legs)
        return [leg for leg, it in legs if it.machine is not None and it.link == number]

    def _answer(self, leg: int, offer: Offer, number: int) -> None:
        if self.side.legs[leg].buried or self.side.legs[leg].machine is not None:
            self.refuse(offer, number, RefuseReason.STALE)
            return
        scope = self.desk.scope
        pages = self.side.allocate(scope.num_blocks, self.side.next_epoch)
        if pages is None:
            self.refuse(offer, number, RefuseReason.FULL)
            return
        held, pages = pages[: scope.num_held], pages[scope.num_held :]
        for block, page in enumerate(held):
            self.side.store(page, tag(leg, block))
        self._grant(leg, offer, held, pages, number)

    def _grant(
        self,
        leg: int,
        offer: Offer,
        held: tuple[int, ...],
        pages: tuple[int, ...],
        number: int,
    ) -> None:
        machines = self.desk.machines
        machine = machines.code.destination(
            offer,
            held,
            pages,
            epoch=self.side.draw_epoch(),
            layout=LAYOUT,
            digest=machines.digest,
            deadline=NOW,
            fence_deadline_s=0.0,
        )
        self.side.change(leg, machine=machines.add(machine), link=number)
        self._call(leg, "grant")

    def _call(self, leg: int, method: str, *args: Any) -> None:
        number = self.side.legs[leg].machine
        assert number is not None
        number, effects = self.desk.machines.call(number, self.side.memory, method, *args)
        self.side.change(leg, machine=number)
        for effect in effects:
            self._perform(leg, effect)
        if self.machine(leg).state is DestinationState.CLOSED:
            self.side.change(leg, machine=None, link=NO_LINK, buried=True)

    def _perform(self, leg: int, effect: Effect) -> None:
        it = self.side.legs[leg]
        match effect:
            case Send():
                self.desk.send_over(it.link, effect.message)
            case Adopt():
                adoptions = it.num_adoptions + 1
                self.side.change(leg, running=effect.blocks, num_adoptions=adoptions)
            case FreePages():
                self._free(leg, effect.blocks)
            case CutLink():
                self.desk.links_to_cut.append(it.link)

    def _free(self, leg: int, pages: tuple[int, ...]) -> None:
        epoch = self.machine(leg).epoch
        for page in pages:
            if self.side.owners[page] != epoch:
                self.desk.blame(f"invariant 1: page {page} is freed by a leg that does not own it")
        self.side.free(pages)
