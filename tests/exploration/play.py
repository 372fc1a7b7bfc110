"""What comes of an event."""

from __future__ import annotations

from tests.exploration.desk import Desk
from tests.exploration.destination_host import DestinationHost
from tests.exploration.events import FAULTS, Event
from tests.exploration.machines import Machines
from tests.exploration.source_host import SourceHost
from tests.exploration.state import GARBAGE, Scope, State
from wire.handoff import Abort, Commit, Handoff, Offer, Quiesced, RefuseReason


def play(scope: Scope, machines: Machines, state: State, event: Event) -> Desk:
    """The state after the event, still open: its `wrong` is what must not have happened."""
    desk = Desk(scope, machines, state)
    desk.num_faults_left -= event.act in FAULTS
    _play(desk, SourceHost(desk), DestinationHost(desk), event)
    return desk


def for_source(message: Handoff) -> bool:
    if isinstance(message, Abort):
        return not message.by_source
    return not isinstance(message, Offer | Commit | Quiesced)


def _play(desk: Desk, source: SourceHost, destination: DestinationHost, event: Event) -> None:
    act, subject = event
    match act:
        case "deliver" | "repeat":
            message = desk.machines.message(subject)
            if act == "deliver":
                desk.network.remove(subject)
            (source if for_source(message) else destination).receive(message)
        case "lose":
            desk.network.remove(subject)
        case "refuse":
            desk.network.remove(subject)
            offer = desk.machines.message(subject)
            assert isinstance(offer, Offer)
            destination.refuse(offer, RefuseReason.DRAINING)
        case "complete" | "corrupt" | "fail" | "land":
            _end_flight(desk, source, act, subject)
        case "tear down":
            desk.flights = [f for f in desk.flights if f.source == desk.source_incarnation]
        case "start":
            source.start(subject)
        case "compute":
            source.compute(subject)
        case "end at source":
            source.end(subject)
        case "cancel at source":
            source.cancel(subject)
        case "deadline at source":
            source.tick(subject)
        case "break for source" | "source hears of the crash":
            source.peer_lost(subject)
        case "crash source":
            source.crash()
        case "end at destination":
            destination.end(subject)
        case "cancel at destination":
            destination.cancel(subject)
        case "deadline at destination":
            destination.tick(subject)
        case "ask for quiet":
            destination.ask_for_quiet(subject)
        case "break for destination" | "destination hears of the crash":
            destination.source_lost(subject)
        case "fence":
            destination.source_gone(subject)
        case "crash destination":
            destination.crash()
        case _:
            raise AssertionError(act)


def _end_flight(desk: Desk, source: SourceHost, act: str, place: int) -> None:
    flight = desk.flights.pop(place)
    if act != "fail":
        garbage = (GARBAGE,) * len(flight.tags)
        desk.land(flight, garbage if act == "corrupt" else flight.tags)
    if act == "fail":
        source.write_failed(flight)
    elif act != "land":
        source.wrote(flight)
