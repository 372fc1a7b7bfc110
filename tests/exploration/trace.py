"""Prints a trace: one numbered line per event, with the actor and the message."""

from __future__ import annotations

from enum import Enum

from tests.exploration.event import FAULTS, Event
from tests.exploration.explorer import Report
from tests.exploration.machines import Machines
from tests.exploration.state import State
from wire.handoff import Handoff

MESSAGE_WORDS = {
    "deliver": "gets",
    "repeat": "gets, not for the last time,",
    "lose": "never gets",
    "refuse": "drains, and refuses",
}
FLIGHT_WORDS = {
    "complete": "completes",
    "corrupt": "completes, but damaged",
    "write fails": "is given up, and the source is told",
    "land": "lands late",
}
OF_LINKS = (
    "break for source",
    "break for destination",
    "source's session ends",
    "source is told",
    "tear down",
    "fail",
    "write is shut out",
    "destination's session ends",
    "evict",
    "fence",
)
OF_WORKERS = ("open link", "unreachable", "crash source", "kill source", "crash destination")


def figures(report: Report) -> str:
    return (
        f"{report.scope.name}: {report.num_states:,} states, {report.num_transitions:,} "
        f"transitions, depth {report.depth}, {report.seconds:.1f} s"
    )


def story(report: Report) -> str:
    """The shortest trace to the violation, without the fair run from there."""
    steps = [_line(report.machines, state, event) for state, event in report.trace]
    lines = [f"  {number:2}  {line}" for number, line in enumerate(steps, 1)]
    return "\n".join([*lines, f"      => {report.violation}"])


def _line(machines: Machines, state: State, event: Event) -> str:
    fault = "  [fault]" if event.act in FAULTS else ""
    return _told(machines, state, event) + fault


def _told(machines: Machines, state: State, event: Event) -> str:
    act, subject, place = event
    if act in MESSAGE_WORDS:
        letter = state.network[subject]
        who = "source" if letter.to_source else "destination"
        said = _said(machines.message(letter.message))
        return f"{who} {MESSAGE_WORDS[act]} {said}"
    if act in FLIGHT_WORDS:
        flight = state.flights[subject]
        write = f"write {flight.write_id} of {flight.attempt_id} to {flight.remote_blocks}"
        return f"{write} {FLIGHT_WORDS[act]}"
    if act in OF_LINKS:
        return f"link {subject}: {act}"
    if act in OF_WORKERS:
        return f"{act} {subject}" if len(state.destinations) > 1 else act
    where = f" {place}" if place else ""
    return f"attempt {subject}: {act}{where}"


def _said(message: Handoff) -> str:
    said = f"{type(message).__name__} of attempt {message.attempt_id.request_id}"
    for name in ("blocks", "epoch", "reason", "cause"):
        if hasattr(message, name):
            value = getattr(message, name)
            said += f", {name} {value.value if isinstance(value, Enum) else value}"
    return said
