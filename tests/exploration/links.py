"""Events of links: sessions end, ends are torn down, receive ends close, new links are made.

As worker/sessions does it: peer_book.py and links.py at the source, inbound.py at a destination.
"""

from __future__ import annotations

from tests.exploration.attempts import destination_ref
from tests.exploration.desk import Desk, Side
from tests.exploration.destination_host import DestinationHost
from tests.exploration.source_host import SourceHost
from tests.exploration.state import NO_LINK, Flight, Link, ReceiveEnd


class LinkHost:
    """Plays one event on one link of a state."""

    def __init__(self, desk: Desk, source: SourceHost, destinations: list[DestinationHost]) -> None:
        self.desk = desk
        self.source = source
        self.destinations = destinations

    def open(self, place: int) -> None:
        """Open a link; messages that waited for it are sent at once."""
        desk, number = self.desk, 1
        while number in desk.links:
            number += 1
        incarnations = desk.source.incarnation, desk.destinations[place].incarnation
        desk.links[number] = Link(number, incarnations[0], place, incarnations[1])
        ref = destination_ref(place, incarnations[1])
        for i, letter in enumerate(desk.network):
            message = desk.machines.message(letter.message)
            if letter.link == NO_LINK and message.destination == ref:
                desk.network[i] = letter._replace(link=number)

    def tell_source(self, number: int) -> None:
        self.desk.change_link(number, session="told")
        self.source.told_of_the_end(self.desk.links[number])

    def tear_down(self, number: int) -> None:
        """Tear down the transfer thread's end: writes are given up, and their source is told."""
        self.desk.change_link(number, carries=False)

        def give_up(flight: Flight) -> Flight:
            if flight.link != number or flight.status != "posted":
                return flight
            return flight._replace(status="given up" if self._is_open(number) else "unsent")

        self.desk.change_flights(give_up)

    def end_at_destination(self, number: int) -> None:
        link = self.desk.links[number]
        if link.receive_end == "open":
            self._change_receive_end(number, "lost")
            self.destinations[link.place].source_lost(number)

    def evict(self, number: int) -> None:
        """The receive end closes; a process with direct access to the memory does not need it."""
        if self.desk.scope.direct_access and self.desk.machines.code.waits_for_the_process:
            self._change_receive_end(number, "evicted")
        else:
            self.fence(number)

    def fence(self, number: int) -> None:
        self._change_receive_end(number, "closed")
        self.destinations[self.desk.links[number].place].source_fenced(number)

    def source_crashed(self, incarnation: int) -> None:
        """The source's process is gone: sent writes may still land, unless it copied by itself."""
        desk = self.desk
        if desk.scope.direct_access:
            desk.flights = [flight for flight in desk.flights if flight.status != "posted"]
        for number, link in list(desk.links.items()):
            if link.source == incarnation:
                desk.end_at_source(number)
                self.tear_down(number)
                desk.change_link(number, session="told")
        desk.change_flights(told)
        desk.drop_letters(lambda letter: letter.link == NO_LINK)

    def destination_crashed(self, place: int, incarnation: int) -> None:
        """A destination's memory is gone, and with it all receive ends."""
        for number, link in list(self.desk.links.items()):
            if (link.place, link.destination) == (place, incarnation):
                self._change_receive_end(number, "closed")
        self.desk.drop_unsent(destination_ref(place, incarnation))

    def settle(self) -> None:
        """Remove links that both ends have finished with; their numbers can be used again."""
        unsettled = {it.link for it in self.desk.flights if it.status != "late"}
        for number, link in list(self.desk.links.items()):
            through = link.session == "told" and not link.carries and link.receive_end == "closed"
            if through and number not in unsettled:
                del self.desk.links[number]
                self._forget(self.desk.destinations[link.place], number)

    def _forget(self, side: Side, number: int) -> None:
        for attempt_id, it in enumerate(side.attempts):
            if it.link == number:
                side.change(attempt_id, link=NO_LINK)

    def _is_open(self, number: int) -> bool:
        link = self.desk.links[number]
        return link.receive_end in ("open", "lost")

    def _change_receive_end(self, number: int, receive_end: ReceiveEnd) -> None:
        """Writes that have left land for as long as the receive end is open."""
        self.desk.change_link(number, receive_end=receive_end)
        self.desk.drop_letters(lambda letter: letter.link == number and not letter.to_source)
        if not self._is_open(number):
            self.desk.change_flights(lambda it: _shut_out(it) if it.link == number else it)


def _shut_out(flight: Flight) -> Flight | None:
    match flight.status:
        case "late":
            return None
        case "given up":
            return flight._replace(status="unsent")
    return flight


def told(flight: Flight) -> Flight | None:
    """The state of a write after its source was told of its end, or has gone."""
    if flight.status == "given up":
        return flight._replace(status="late")
    return None if flight.status == "unsent" else flight
