"""The open state that all hosts change: workers, links, the network, and writes under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.exploration.attempts import destination_ref, for_source
from tests.exploration.machines import Machines
from tests.exploration.state import (
    FREE,
    GARBAGE,
    NO_LINK,
    Flight,
    Letter,
    Link,
    Scope,
    State,
    Worker,
    landed,
)
from wire.handoff import Handoff
from wire.identity import WorkerRef


class Side:
    """One worker, open for change; most events change nothing in it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._changed = False
        self.incarnation, self.owners, self.memory, self.attempts, self.next_epoch = worker

    def worker(self) -> Worker:
        if not self._changed:
            return self._worker
        return Worker(self.incarnation, self.owners, self.memory, self.attempts, self.next_epoch)

    def allocate(self, count: int, owner: int) -> tuple[int, ...] | None:
        """Take the lowest free blocks, so that states that differ only in block numbers are one."""
        blocks = tuple(block for block, each in enumerate(self.owners) if not each)[:count]
        if len(blocks) < count:
            return None
        for block in blocks:
            self.owners = _put(self.owners, block, owner)
        self._changed = True
        return blocks

    def draw_epoch(self) -> int:
        self.next_epoch += 1
        self._changed = True
        return self.next_epoch - 1

    def free(self, blocks: tuple[int, ...]) -> None:
        for block in blocks:
            self.owners = _put(self.owners, block, FREE)
            self.store(block, FREE)

    def store(self, block: int, content: int) -> None:
        self.memory = _put(self.memory, block, content)
        self._changed = True

    def change(self, attempt_id: int, **changes: Any) -> None:
        self.attempts = _put(
            self.attempts, attempt_id, self.attempts[attempt_id]._replace(**changes)
        )
        self._changed = True

    def restart(self, attempts: tuple[Any, ...]) -> None:
        """Forget all attempts, and get other memory."""
        self.incarnation += 1
        self.next_epoch = 1
        self.attempts = attempts
        self.free(tuple(range(len(self.owners))))


class Desk:
    """One state, open for change. `wrong` names what a host saw and must never happen."""

    def __init__(self, scope: Scope, machines: Machines, state: State) -> None:
        self.scope = scope
        self.machines = machines
        self.wrong: str | None = None
        self.source = Side(state.source)
        self.destinations = [Side(worker) for worker in state.destinations]
        self.links = {link.number: link for link in state.links}
        self.links_to_cut: list[int] = []
        """Links that destinations cut as soon as their host has finished the event."""
        self.network = list(state.network)
        self.flights = list(state.flights)
        self.num_faults_left = state.num_faults_left

    def state(self) -> State:
        in_order = self.scope.in_order
        return State(
            self.source.worker(),
            tuple(side.worker() for side in self.destinations),
            tuple(self.links[number] for number in sorted(self.links)),
            tuple(sorted(self.network, key=_channel if in_order else None)),
            tuple(sorted(self.flights)),
            self.num_faults_left,
        )

    def send_over(self, number: int, message: Handoff) -> None:
        """Send over a link; the message is lost when its session has ended at either end."""
        link, to_source = self.links.get(number), for_source(message)
        if link is not None and link.session == "open" and link.receive_end == "open":
            self.network.append(Letter(number, to_source, self.machines.number_of(message)))

    def send_to(self, ref: WorkerRef, message: Handoff) -> None:
        """Send over the session that the source has opened to that worker, or will open."""
        link = self.link_to(ref)
        if link is not None and link.session == "open":
            self.send_over(link.number, message)
        else:
            self.network.append(Letter(NO_LINK, False, self.machines.number_of(message)))

    def link_to(self, ref: WorkerRef) -> Link | None:
        for link in self.links.values():
            theirs = destination_ref(link.place, link.destination)
            if link.source == self.source.incarnation and theirs == ref:
                return link
        return None

    def change_link(self, number: int, **changes: Any) -> None:
        self.links[number] = self.links[number]._replace(**changes)

    def end_at_source(self, number: int) -> None:
        """The session has ended at the source; its attempts are not told yet."""
        self.change_link(number, session="ended")
        self.drop_letters(lambda letter: letter.link == number and letter.to_source)

    def drop_unsent(self, ref: WorkerRef) -> None:
        """Drop messages that wait for a session with that worker."""
        message = self.machines.message
        self.drop_letters(lambda it: not it.link and message(it.message).destination == ref)

    def drop_letters(self, lost: Callable[[Letter], bool]) -> None:
        self.network = [letter for letter in self.network if not lost(letter)]

    def change_flights(self, change: Callable[[Flight], Flight | None]) -> None:
        """Replace every write under way by `change(it)`; None removes it."""
        changed = [change(flight) for flight in self.flights]
        self.flights = [flight for flight in changed if flight is not None]

    def land(self, flight: Flight, *, damaged: bool) -> None:
        side = self.destinations[flight.place]
        for block, content in zip(flight.remote_blocks, flight.tags, strict=True):
            changed = landed(side.memory[block], content, flight.part)
            side.store(block, GARBAGE if damaged else changed)

    def blame(self, what: str) -> None:
        self.wrong = self.wrong or what


def _channel(letter: Letter) -> tuple[int, bool]:
    return letter.link, letter.to_source


def _put(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])
