"""What both hosts stand on: the state taken apart, the network, and the writes under way."""

from __future__ import annotations

from tests.exploration.machines import Machines
from tests.exploration.state import Flight, Scope, State
from wire.handoff import Handoff


class Desk:
    """One state, open for change. `wrong` is what a host saw that must never happen."""

    def __init__(self, scope: Scope, machines: Machines, state: State) -> None:
        self.scope = scope
        self.machines = machines
        self.wrong: str | None = None
        self.sources = list(state.sources)
        self.source_incarnation = state.source_incarnation
        self.source_owners = list(state.source_owners)
        self.source_memory = list(state.source_memory)
        self.destinations = list(state.destinations)
        self.destination_incarnation = state.destination_incarnation
        self.destination_owners = list(state.destination_owners)
        self.destination_memory = list(state.destination_memory)
        self.next_epoch = state.next_epoch
        self.network = list(state.network)
        self.flights = list(state.flights)
        self.num_faults_left = state.num_faults_left

    def state(self) -> State:
        return State(
            tuple(self.sources),
            self.source_incarnation,
            tuple(self.source_owners),
            tuple(self.source_memory),
            tuple(self.destinations),
            self.destination_incarnation,
            tuple(self.destination_owners),
            tuple(self.destination_memory),
            self.next_epoch,
            tuple(sorted(self.network)),
            tuple(sorted(self.flights)),
            self.num_faults_left,
        )

    def send(self, message: Handoff) -> None:
        self.network.append(self.machines.number_of(message))

    def land(self, flight: Flight, tags: tuple[int, ...]) -> None:
        """The data reaches memory, if the memory that it was meant for still exists."""
        if flight.destination == self.destination_incarnation:
            for page, content in zip(flight.pages, tags, strict=True):
                self.destination_memory[page] = content

    def blame(self, what: str) -> None:
        self.wrong = self.wrong or what


def allocate(owners: list[int], count: int, owner: int) -> tuple[int, ...] | None:
    """The lowest free blocks, so that states that differ only in page numbers are one."""
    free = [block for block, each in enumerate(owners) if not each][:count]
    if len(free) < count:
        return None
    for block in free:
        owners[block] = owner
    return tuple(free)
