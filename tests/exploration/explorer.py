"""Breadth-first over all states of a scope; the first violation comes with its shortest trace."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from typing import Any

from tests.exploration.event import FAULTS, Event
from tests.exploration.events import events
from tests.exploration.invariants import at_rest, broken
from tests.exploration.machines import Code, Machines
from tests.exploration.play import play
from tests.exploration.state import Scope, State, first_state

NONE = -1
"""Stands for no state in the arrays of state numbers."""


@dataclass
class Report:
    scope: Scope
    machines: Machines
    num_states: int = 0
    num_transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    violation: str | None = None
    trace: list[tuple[State, Event]] = field(default_factory=list)


class Explorer:
    """States are numbered as they are found, so that the first of a kind has the shortest trace."""

    def __init__(self, scope: Scope, code: Code) -> None:
        self.report = Report(scope, Machines(code))
        self._scope = scope
        self._machines = self.report.machines
        self._states: list[State] = []
        self._number_of: dict[State, int] = {}
        self._parents: list[int] = []
        self._causes: list[Event | None] = []
        self._depths: list[int] = []
        self._next: list[int] = []  # the successor in a fair run without faults
        self._parts: dict[Any, Any] = {}

    def run(self) -> Report:
        started = time.perf_counter()
        gc.disable()  # no cycles are made here, only very many tuples
        try:
            self._explore()
        finally:
            gc.enable()
        self.report.num_states = len(self._states)
        self.report.depth = max(self._depths)
        self.report.seconds = time.perf_counter() - started
        return self.report

    def _explore(self) -> None:
        self._find(first_state(self._scope), NONE, None)
        number = 0
        while number < len(self._states) and self.report.violation is None:
            self._expand(number)
            number += 1
        if self.report.violation is None:
            self._check_that_fair_runs_end()

    def _expand(self, number: int) -> None:
        state = self._states[number]
        self._next.append(NONE)
        for event in events(self._scope, self._machines, state):
            desk = play(self._scope, self._machines, state, event)
            after = desk.state()
            self.report.num_transitions += 1
            found = self._number_of.get(after)
            problem = desk.wrong
            if found is None:
                found = self._find(after, number, event)
                problem = problem or broken(self._scope, self._machines, after)
            if problem is not None:
                self._blame(problem, number, event)
                return
            if self._next[number] == NONE and found != number and event.act not in FAULTS:
                self._next[number] = found

    def _find(self, state: State, parent: int, cause: Event | None) -> int:
        number = len(self._states)
        state = State(*(self._parts.setdefault(part, part) for part in state))
        self._states.append(state)
        self._number_of[state] = number
        self._parents.append(parent)
        self._causes.append(cause)
        self._depths.append(0 if parent == NONE else self._depths[parent] + 1)
        return number

    def _check_that_fair_runs_end(self) -> None:
        """Check that every run without further faults comes to rest; walk each run once."""
        ends = bytearray(len(self._states))
        for start in range(len(self._states)):
            path: list[int] = []
            on_path: set[int] = set()
            number = start
            while not ends[number] and number not in on_path:
                path.append(number)
                on_path.add(number)
                if self._next[number] == NONE:
                    break
                number = self._next[number]
            last = path[-1] if path else number
            if not ends[number] and not (self._next[last] == NONE and at_rest(self._states[last])):
                self._blame_run(start, last)
                return
            for each in path:
                ends[each] = 1

    def _blame_run(self, start: int, last: int) -> None:
        stuck = self._next[last] == NONE
        why = "somebody waits for ever, with no deadline" if stuck else "it never comes to rest"
        number = "5" if stuck else "2"
        self._blame(f"invariant {number}: without further faults, {why}", start)

    def _blame(self, problem: str, number: int, last: Event | None = None) -> None:
        self.report.violation = problem
        trace = [] if last is None else [(self._states[number], last)]
        while (cause := self._causes[number]) is not None:
            number = self._parents[number]
            trace.append((self._states[number], cause))
        self.report.trace = trace[::-1]


def explore(scope: Scope, code: Code | None = None) -> Report:
    return Explorer(scope, code or Code()).run()
