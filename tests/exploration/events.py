"""Everything that can happen next in a state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kv_transfer.destination import DestinationState
from kv_transfer.source import SourceState
from tests.exploration.legs import leg_number
from tests.exploration.machines import Machines
from tests.exploration.state import FREE, Scope, State
from wire.handoff import Abort, Handoff, Offer, Quiesced


class Event(NamedTuple):
    """`subject` is the number of a leg, of a message, or of a write's place among the flights."""

    act: str
    subject: int = 0


FAULTS = frozenset(
    {
        "lose",
        "repeat",
        "cancel at source",
        "cancel at destination",
        "crash source",
        "crash destination",
        "break for source",
        "break for destination",
        "fail",
        "corrupt",
        "refuse",
    }
)


def events(scope: Scope, machines: Machines, state: State) -> Iterator[Event]:
    """First what happens by itself, in the order of a fair run, then the faults still allowed."""
    yield from (Event("deliver", message) for message in sorted(set(state.network)))
    yield from _of_flights(state)
    yield from _of_source(scope, machines, state)
    yield from _of_destination(machines, state)
    if state.num_faults_left:
        yield from _faults(machines, state)


def _of_flights(state: State) -> Iterator[Event]:
    late = False
    for place, flight in enumerate(state.flights):
        if flight.source == state.source_incarnation:
            yield Event("complete", place)
        else:
            late = True
            yield Event("land", place)
    if late:
        yield Event("tear down")


def _of_source(scope: Scope, machines: Machines, state: State) -> Iterator[Event]:
    waiting = True
    for leg, it in enumerate(state.sources):
        if it.stage == "waiting":
            if waiting and state.source_owners.count(FREE) >= scope.num_blocks:
                yield Event("start", leg)
            waiting = False  # in their order: the legs are alike
        if it.stage == "running":
            if it.outcome == "kept":
                yield Event("end at source", leg)
            elif it.outcome == "open":
                yield Event("compute", leg)
        if it.machine is not None:
            machine = machines[it.machine]
            if machine.state is not SourceState.ENDING:
                if machine.offer.destination.incarnation != state.destination_incarnation:
                    yield Event("source hears of the crash", leg)
                yield Event("deadline at source", leg)


def _of_destination(machines: Machines, state: State) -> Iterator[Event]:
    for leg, it in enumerate(state.destinations):
        if it.running:
            yield Event("end at destination", leg)
        if it.machine is None:
            continue
        machine = machines[it.machine]
        dead = machine.offer.source.incarnation != state.source_incarnation
        if dead and machine.state is not DestinationState.ACCEPTED:
            if machine.state is DestinationState.GRANTED:
                yield Event("destination hears of the crash", leg)
            if not _late_writes(state):
                yield Event("fence", leg)
        if machine.state is DestinationState.GRANTED:
            yield Event("deadline at destination", leg)
        may_ask = machine.state is DestinationState.FENCING and not dead
        if may_ask and not _quiet_is_under_way(machines, state, machine.offer.leg):
            yield Event("ask for quiet", leg)


def _late_writes(state: State) -> bool:
    return any(flight.source != state.source_incarnation for flight in state.flights)


def _quiet_is_under_way(machines: Machines, state: State, leg: object) -> bool:
    """Asking again changes nothing then, and would make the world infinite."""
    messages = (machines.message(number) for number in state.network)
    return any(m.leg == leg and isinstance(m, Abort | Quiesced) for m in messages)


def _may_be_refused(state: State, message: Handoff) -> bool:
    """A leg that is known already is answered by its machine."""
    if not isinstance(message, Offer):
        return False
    fresh = message.destination.incarnation == state.destination_incarnation
    return fresh and state.destinations[leg_number(message.leg)].machine is None


def _faults(machines: Machines, state: State) -> Iterator[Event]:
    for number in sorted(set(state.network)):
        yield Event("lose", number)
        yield Event("repeat", number)
        if _may_be_refused(state, machines.message(number)):
            yield Event("refuse", number)
    for place, flight in enumerate(state.flights):
        if flight.source == state.source_incarnation:
            yield Event("fail", place)
            yield Event("corrupt", place)
    for leg, here in enumerate(state.sources):
        if here.machine is not None or here.stage == "running":
            yield Event("break for source", leg)
            if here.outcome in ("open", "kept"):
                yield Event("cancel at source", leg)
        there = state.destinations[leg]
        if there.machine is not None:
            yield Event("break for destination", leg)
        if not there.buried and not there.running:
            yield Event("cancel at destination", leg)
    yield Event("crash source")
    yield Event("crash destination")
