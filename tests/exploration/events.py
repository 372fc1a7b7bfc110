"""All events that can happen next in a state."""

from __future__ import annotations

from collections.abc import Iterator

from kv_transfer.handoff.destination import DestinationHandoff, DestinationState
from kv_transfer.handoff.source import SourceHandoff, SourceState
from tests.exploration.attempts import destination_ref
from tests.exploration.event import Event
from tests.exploration.faults import faults, wanted_links
from tests.exploration.machines import Machines
from tests.exploration.state import FREE, NO_LINK, Link, Scope, SourceAttempt, State, lands


def events(scope: Scope, machines: Machines, state: State) -> Iterator[Event]:
    """First the events of a fair run, in its order, then the faults that are still allowed."""
    for place in _deliverable(scope, state):
        yield Event("deliver", place)
    yield from _of_flights(scope, machines, state)
    yield from _of_links(scope, machines, state)
    yield from _of_source(scope, machines, state)
    yield from _of_destinations(state)
    yield from _deadlines(machines, state)
    if state.num_faults_left:
        yield from faults(scope, machines, state)


def _deliverable(scope: Scope, state: State) -> Iterator[int]:
    """Places in the network: in order, the first of each channel, or else each once."""
    seen = set()
    for place, letter in enumerate(state.network):
        key = letter[:2] if scope.in_order else letter
        if letter.link != NO_LINK and key not in seen:
            seen.add(key)
            yield place


def _of_flights(scope: Scope, machines: Machines, state: State) -> Iterator[Event]:
    """Events of writes: a source that is told of a failed write has hung up before."""
    silent = {link.number for link in state.links if link.session != "open"}
    for place, flight in enumerate(state.flights):
        if flight.status in ("given up", "unsent"):
            if flight.link in silent or not machines.code.hangs_up_first:
                yield Event("write fails", place)
        elif lands(scope, state, flight):
            yield Event("complete" if flight.status == "posted" else "land", place)


def _of_links(scope: Scope, machines: Machines, state: State) -> Iterator[Event]:
    for link in state.links:
        yield from _of_source_end(scope, state, link)
        yield from _of_destination_end(machines, state, link)
    for place in wanted_links(machines, state):
        yield Event("open link", place)


def _of_source_end(scope: Scope, state: State, link: Link) -> Iterator[Event]:
    """Events of a link; none of them at an end whose process is gone."""
    if link.session == "open" and not (link.carries and link.receive_end == "open"):
        yield Event("source's session ends", link.number)
    if link.session == "ended":
        yield Event("source is told", link.number)
    if link.session == "told" and link.carries:
        yield Event("tear down", link.number)
    posted = [it for it in state.flights if it.link == link.number and it.status == "posted"]
    if link.carries and posted and not lands(scope, state, posted[0]):
        yield Event("write is shut out", link.number)


def _of_destination_end(machines: Machines, state: State, link: Link) -> Iterator[Event]:
    if link.receive_end == "open" and link.session != "open":
        yield Event("destination's session ends", link.number)
    if link.receive_end == "lost":
        yield Event("evict", link.number)
    if link.receive_end == "evicted":
        through = link.session == "told" and not link.carries
        waits = _waits_for_fence(machines, state, link)
        if through or not waits:  # the source has ended, or may call again
            yield Event("fence", link.number)
        elif link.source == state.source.incarnation:
            yield Event("kill source")


def _waits_for_fence(machines: Machines, state: State, link: Link) -> bool:
    attempts = [it for it in state.destinations[link.place].attempts if it.link == link.number]
    return any(
        it.machine is not None and machines[it.machine].state is DestinationState.FENCING
        for it in attempts
    )


def _of_source(scope: Scope, machines: Machines, state: State) -> Iterator[Event]:
    waiting = True
    for attempt_id, it in enumerate(state.source.attempts):
        if it.stage == "waiting":
            if waiting and state.source.owners.count(FREE) >= scope.num_blocks:
                yield Event("start", attempt_id)
            waiting = False  # in their order: the attempts are alike
        if it.stage == "running":
            if it.outcome == "kept":
                yield Event("end at source", attempt_id)
            elif it.outcome == "open":
                yield Event("compute", attempt_id)
                last = it.num_computed == scope.num_blocks - 1
                if scope.by_layers and last and not it.half_computed:
                    yield Event("compute a layer", attempt_id)
        if it.machine is not None and it.link is None and _is_orphan(machines, state, it):
            yield Event("destination is no more", attempt_id)


def _is_orphan(machines: Machines, state: State, it: SourceAttempt) -> bool:
    """Whether an attempt waits for a session with a life that has ended, and no link is left."""
    machine = machines.machine(it.machine)
    ref = machine.offer.destination
    lives = {(place, it.incarnation) for place, it in enumerate(state.destinations)}
    lives |= {(link.place, link.destination) for link in state.links}
    return all(destination_ref(*life) != ref for life in lives)


def _of_destinations(state: State) -> Iterator[Event]:
    for place, worker in enumerate(state.destinations):
        for attempt_id, it in enumerate(worker.attempts):
            if it.verify is not None:
                yield Event("checksum", attempt_id, place)
            if it.running:
                yield Event("end at destination", attempt_id, place)


def _deadlines(machines: Machines, state: State) -> Iterator[Event]:
    for attempt_id, it in enumerate(state.source.attempts):
        if it.machine is not None:
            source = machines[it.machine]
            assert isinstance(source, SourceHandoff)
            computing = source.state is SourceState.OFFERED and source._final is None
            if source._deadline is not None and not computing:
                yield Event("deadline at source", attempt_id)
    for place, worker in enumerate(state.destinations):
        for attempt_id, there in enumerate(worker.attempts):
            if there.machine is not None:
                destination = machines[there.machine]
                assert isinstance(destination, DestinationHandoff)
                accepted = destination.state is DestinationState.ACCEPTED
                if destination._deadline is not None and not accepted:
                    yield Event("deadline at destination", attempt_id, place)
