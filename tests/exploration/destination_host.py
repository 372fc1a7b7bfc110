"""A destination's stand-in host: as worker/steps/destination_handoffs.py, without an engine."""

from __future__ import annotations

from typing import Any

from kv_transfer.handoff.destination import DestinationHandoff, DestinationState
from kv_transfer.handoff.effects import Adopt, CutLink, Effect, FreeBlocks, Send, Verify
from tests.exploration.attempts import LAYOUT, NOW, attempt_number
from tests.exploration.desk import Desk
from tests.exploration.machines import checksum
from tests.exploration.state import NO_LINK, DestinationAttempt, tag
from wire.handoff import Commit, Handoff, Offer, Refuse, RefuseReason, Stale


class DestinationHost:
    """Plays one event on one destination's side of a state."""

    def __init__(self, desk: Desk, place: int) -> None:
        self.desk = desk
        self.side = desk.destinations[place]

    def receive(self, message: Handoff, number: int) -> None:
        attempt_id = attempt_number(message.attempt_id)
        it = self.side.attempts[attempt_id]
        if it.machine is not None and message.ends == self.machine(attempt_id).offer.ends:
            if it.link == number:
                self._call(attempt_id, "receive", message, NOW)
        elif isinstance(message, Offer):
            self._answer(attempt_id, message, number)
        elif isinstance(message, Commit):
            self.desk.send_over(number, Stale(**message.ends))

    def refuse(self, offer: Offer, number: int, reason: RefuseReason) -> None:
        self.desk.send_over(number, Refuse(**offer.ends, reason=reason))

    def cancel(self, attempt_id: int) -> None:
        if self.side.attempts[attempt_id].machine is None:
            self.side.change(attempt_id, buried=True)
        else:
            self._call(attempt_id, "abort", "cancelled", NOW)

    def tick(self, attempt_id: int) -> None:
        self._call(attempt_id, "tick", NOW)

    def checksum(self, attempt_id: int) -> None:
        """The checksum that the machine has asked for is known."""
        verify = self.side.attempts[attempt_id].verify
        assert verify is not None
        self.side.change(attempt_id, verify=None)
        tags = [self.side.memory[block] for block in verify.blocks]
        self._call(attempt_id, "checksummed", checksum(tags, verify.first))

    def source_lost(self, number: int) -> None:
        for attempt_id in self._attempts_of(number):
            self._call(attempt_id, "source_lost", "connection lost")

    def source_fenced(self, number: int) -> None:
        for attempt_id in self._attempts_of(number):
            self._call(attempt_id, "source_fenced")

    def end(self, attempt_id: int) -> None:
        """The answer of a sequence that runs here has ended."""
        self.side.free(self.side.attempts[attempt_id].running)
        self.side.change(attempt_id, machine=None, running=(), buried=True)

    def crash(self) -> None:
        attempts = self.side.attempts
        self.side.restart(
            tuple(DestinationAttempt(num_adoptions=it.num_adoptions) for it in attempts)
        )

    def machine(self, attempt_id: int) -> DestinationHandoff:
        machine = self.desk.machines.machine(self.side.attempts[attempt_id].machine)
        assert isinstance(machine, DestinationHandoff)
        return machine

    def _attempts_of(self, number: int) -> list[int]:
        attempts = enumerate(self.side.attempts)
        return [
            attempt_id
            for attempt_id, it in attempts
            if it.machine is not None and it.link == number
        ]

    def _answer(self, attempt_id: int, offer: Offer, number: int) -> None:
        if (
            self.side.attempts[attempt_id].buried
            or self.side.attempts[attempt_id].machine is not None
        ):
            self.refuse(offer, number, RefuseReason.STALE)
            return
        scope = self.desk.scope
        blocks = self.side.allocate(scope.num_blocks, self.side.next_epoch)
        if blocks is None:
            self.refuse(offer, number, RefuseReason.FULL)
            return
        held, granted = blocks[: scope.num_held], blocks[scope.num_held :]
        for place, block in enumerate(held):
            self.side.store(block, tag(attempt_id, place))
        self._grant(attempt_id, offer, held, granted, number)

    def _grant(
        self,
        attempt_id: int,
        offer: Offer,
        held: tuple[int, ...],
        granted: tuple[int, ...],
        number: int,
    ) -> None:
        machines = self.desk.machines
        machine = machines.code.destination(
            offer,
            held,
            granted,
            epoch=self.side.draw_epoch(),
            layout=LAYOUT,
            deadline=NOW,
            fence_deadline_s=0.0,
        )
        self.side.change(attempt_id, machine=machines.add(machine), link=number)
        self._call(attempt_id, "grant")

    def _call(self, attempt_id: int, method: str, *args: Any) -> None:
        number = self.side.attempts[attempt_id].machine
        assert number is not None
        number, effects = self.desk.machines.call(number, method, *args)
        self.side.change(attempt_id, machine=number)
        for effect in effects:
            self._perform(attempt_id, effect)
        if self.machine(attempt_id).state is DestinationState.CLOSED:
            self.side.change(attempt_id, machine=None, link=NO_LINK, buried=True)

    def _perform(self, attempt_id: int, effect: Effect) -> None:
        it = self.side.attempts[attempt_id]
        match effect:
            case Send():
                self.desk.send_over(it.link, effect.message)
            case Verify():
                self.side.change(attempt_id, verify=effect)
            case Adopt():
                adoptions = it.num_adoptions + 1
                self.side.change(attempt_id, running=effect.blocks, num_adoptions=adoptions)
            case FreeBlocks():
                self._free(attempt_id, effect.blocks)
            case CutLink():
                self.desk.links_to_cut.append(it.link)

    def _free(self, attempt_id: int, blocks: tuple[int, ...]) -> None:
        epoch = self.machine(attempt_id).epoch
        for block in blocks:
            if self.side.owners[block] != epoch:
                self.desk.blame(
                    f"invariant 1: block {block} is freed by an attempt that does not own it"
                )
        self.side.free(blocks)
