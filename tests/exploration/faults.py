"""All faults that can happen next in a state, and all requests from outside."""

from __future__ import annotations

from collections.abc import Iterator

from tests.exploration.attempts import attempt_number, destination_ref
from tests.exploration.event import Event
from tests.exploration.machines import Machines
from tests.exploration.state import NO_LINK, Letter, Scope, State, lands
from wire.handoff import Offer


def faults(scope: Scope, machines: Machines, state: State) -> Iterator[Event]:
    yield from _of_letters(scope, machines, state)
    for place, flight in enumerate(state.flights):
        if flight.status == "posted" and lands(scope, state, flight):
            yield Event("corrupt", place)
    yield from _of_links(machines, state)
    yield from _of_source(scope, state)
    for place, worker in enumerate(state.destinations):
        yield Event("crash destination", place)
        for attempt_id, it in enumerate(worker.attempts):
            if not it.buried and not it.running:
                yield Event("cancel at destination", attempt_id, place)


def _of_letters(scope: Scope, machines: Machines, state: State) -> Iterator[Event]:
    seen: set[Letter] = set()
    for place, letter in enumerate(state.network):
        if letter.link == NO_LINK or letter in seen:
            continue
        seen.add(letter)
        if not scope.in_order:
            yield Event("lose", place)
            yield Event("repeat", place)
        if _may_be_refused(machines, state, letter):
            yield Event("refuse", place)


def _may_be_refused(machines: Machines, state: State, letter: Letter) -> bool:
    """An attempt that is known already is answered by its machine."""
    message = machines.message(letter.message)
    if not isinstance(message, Offer):
        return False
    (link,) = (it for it in state.links if it.number == letter.link)
    return (
        state.destinations[link.place].attempts[attempt_number(message.attempt_id)].machine is None
    )


def _of_links(machines: Machines, state: State) -> Iterator[Event]:
    for link in state.links:
        if link.session == "open":
            yield Event("break for source", link.number)
        if link.receive_end == "open":
            yield Event("break for destination", link.number)
        if link.carries:
            yield Event("fail", link.number)
    for place in wanted_links(machines, state):
        yield Event("unreachable", place)


def wanted_links(machines: Machines, state: State) -> Iterator[int]:
    """Destinations for which something waits.

    They are not called before both ends are through with the former link of these two lives.
    """
    joined = {(it.source, it.place, it.destination) for it in state.links}
    waiting = [machines.message(it.message) for it in state.network if it.link == NO_LINK]
    for place, worker in enumerate(state.destinations):
        ref = destination_ref(place, worker.incarnation)
        wanted = any(message.destination == ref for message in waiting)
        if wanted and (state.source.incarnation, place, worker.incarnation) not in joined:
            yield place


def _of_source(scope: Scope, state: State) -> Iterator[Event]:
    yield Event("crash source")
    for attempt_id, it in enumerate(state.source.attempts):
        if it.stage == "waiting" or it.stage == "over":
            continue
        if it.outcome in ("open", "kept"):
            yield Event("cancel at source", attempt_id)
        idle = it.outcome == "kept" and it.machine is None
        if idle and it.num_offers < scope.num_destinations:
            yield Event("move", attempt_id)
