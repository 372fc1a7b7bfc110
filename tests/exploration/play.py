"""Plays an event: from a state to the next."""

from __future__ import annotations

from tests.exploration.attempts import destination_ref
from tests.exploration.desk import Desk
from tests.exploration.destination_host import DestinationHost
from tests.exploration.event import FAULTS, Event
from tests.exploration.links import LinkHost, told
from tests.exploration.machines import Machines, checksum
from tests.exploration.source_host import SourceHost
from tests.exploration.state import Scope, State
from wire.handoff import Offer, RefuseReason


def play(scope: Scope, machines: Machines, state: State, event: Event) -> Desk:
    """The state after the event, still open: its `wrong` is what must not have happened."""
    desk = Desk(scope, machines, state)
    desk.num_faults_left -= event.act in FAULTS
    _Player(desk).play(event)
    return desk


class _Player:
    """The hosts of one state, and which of them plays which event."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.source = SourceHost(desk)
        places = range(desk.scope.num_destinations)
        self.destinations = [DestinationHost(desk, place) for place in places]
        self.links = LinkHost(desk, self.source, self.destinations)

    def play(self, event: Event) -> None:
        act, subject, place = event
        match act:
            case "deliver" | "repeat" | "lose" | "refuse":
                self._play_letter(act, subject)
            case "complete" | "corrupt" | "land" | "write fails":
                self._play_flight(act, subject)
            case (
                "start"
                | "move"
                | "compute"
                | "compute a layer"
                | "end at source"
                | "cancel at source"
            ):
                self._play_source(act, subject)
            case "deadline at source":
                self.source.tick(subject)
            case "checksum":
                self.destinations[place].checksum(subject)
            case "end at destination":
                self.destinations[place].end(subject)
            case "cancel at destination":
                self.destinations[place].cancel(subject)
            case "deadline at destination":
                self.destinations[place].tick(subject)
            case _:
                self._play_link(act, subject)
        while self.desk.links_to_cut:
            self.links.end_at_destination(self.desk.links_to_cut.pop())
        self.links.settle()

    def _play_letter(self, act: str, subject: int) -> None:
        letter = self.desk.network[subject]
        message = self.desk.machines.message(letter.message)
        if act != "repeat":
            del self.desk.network[subject]
        if act == "lose":
            return
        if letter.to_source:
            self.source.receive(message, letter.link)
            return
        destination = self.destinations[self.desk.links[letter.link].place]
        if act == "refuse":
            assert isinstance(message, Offer)
            destination.refuse(message, letter.link, RefuseReason.DRAINING)
        else:
            destination.receive(message, letter.link)

    def _play_flight(self, act: str, subject: int) -> None:
        flight = self.desk.flights.pop(subject)
        if act == "write fails":
            after = told(flight)
            self.desk.flights += [] if after is None else [after]
            self.source.write_failed(flight)
            return
        self.desk.land(flight, damaged=act == "corrupt")
        if act != "land":
            whole = flight.part != "first"
            self.source.wrote(
                flight, checksum(flight.tags, flight.first_remote_block) if whole else 0
            )

    def _play_source(self, act: str, attempt_id: int) -> None:
        match act:
            case "start":
                self.source.start(attempt_id)
            case "move":
                self.source.move(attempt_id)
            case "compute":
                self.source.compute(attempt_id)
            case "compute a layer":
                self.source.compute_layer(attempt_id)
            case "end at source":
                self.source.end(attempt_id)
            case "cancel at source":
                self.source.cancel(attempt_id)

    def _play_link(self, act: str, subject: int) -> None:
        match act:
            case "open link":
                self.links.open(subject)
            case "break for source" | "source's session ends":
                self.desk.end_at_source(subject)
            case "source is told":
                self.links.tell_source(subject)
            case "tear down" | "fail" | "write is shut out":
                self.links.tear_down(subject)
            case "break for destination" | "destination's session ends":
                self.links.end_at_destination(subject)
            case "evict":
                self.links.evict(subject)
            case "fence":
                self.links.fence(subject)
            case "unreachable" | "destination is no more":
                self._unreachable(act, subject)
            case "crash source" | "kill source":
                self.links.source_crashed(self.desk.source.incarnation)
                self.source.crash()
            case "crash destination":
                self.links.destination_crashed(subject, self.destinations[subject].side.incarnation)
                self.destinations[subject].crash()
            case _:
                raise AssertionError(act)

    def _unreachable(self, act: str, subject: int) -> None:
        """A destination that lives, or an attempt whose destination does not."""
        if act == "unreachable":
            ref = destination_ref(subject, self.desk.destinations[subject].incarnation)
        else:
            ref = self.source.machine(subject).offer.destination
        self.source.unreachable(ref)
