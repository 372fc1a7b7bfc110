"""A trace for people: one numbered line per event, with who acts and what is said."""

from __future__ import annotations

from enum import Enum

from tests.exploration.events import FAULTS, Event
from tests.exploration.explorer import Report
from tests.exploration.machines import Machines
from tests.exploration.play import for_source
from tests.exploration.state import State
from wire.handoff import Handoff

OF_MESSAGES = ("deliver", "lose", "repeat", "refuse")
OF_FLIGHTS = ("complete", "land", "fail", "corrupt")
MESSAGE_WORDS = {
    "deliver": "gets",
    "repeat": "gets, not for the last time,",
    "lose": "never gets",
    "refuse": "drains, and refuses",
}
FLIGHT_WORDS = {
    "complete": "completes",
    "land": "lands late, from a source that is no more",
    "fail": "fails",
    "corrupt": "completes, but damaged",
}


def figures(report: Report) -> str:
    return (
        f"{report.scope.name}: {report.num_states:,} states, {report.num_transitions:,} "
        f"transitions, depth {report.depth}, {report.seconds:.1f} s"
    )


def story(report: Report) -> str:
    """The shortest way to the violation; what a fair run does from there is not told."""
    steps = [_line(report.machines, state, event) for state, event in report.trace]
    lines = [f"  {number:2}  {line}" for number, line in enumerate(steps, 1)]
    return "\n".join([*lines, f"      => {report.violation}"])


def _line(machines: Machines, state: State, event: Event) -> str:
    fault = "  [fault]" if event.act in FAULTS else ""
    return _told(machines, state, event) + fault


def _told(machines: Machines, state: State, event: Event) -> str:
    if event.act in OF_MESSAGES:
        message = machines.message(event.subject)
        who = "source" if for_source(message) else "destination"
        return f"{who} {MESSAGE_WORDS[event.act]} {_said(message)}"
    if event.act in OF_FLIGHTS:
        flight = state.flights[event.subject]
        words = FLIGHT_WORDS[event.act]
        return f"write {flight.write_id} of leg {flight.leg} to pages {flight.pages} {words}"
    if event.act in ("crash source", "crash destination", "tear down"):
        return event.act
    return f"leg {event.subject}: {event.act}"


def _said(message: Handoff) -> str:
    said = f"{type(message).__name__} of leg {message.leg.request_id}"
    for name in ("pages", "epoch", "reason", "cause"):
        if hasattr(message, name):
            value = getattr(message, name)
            said += f", {name} {value.value if isinstance(value, Enum) else value}"
    return said
