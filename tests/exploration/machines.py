"""The real state machines, each distinct one kept once, so that a state can name it by a number."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from kv_transfer.handoff.destination import DestinationHandoff, DestinationState
from kv_transfer.handoff.effects import Effect
from kv_transfer.handoff.source import HandoffTotals, SourceHandoff, SourceState
from wire.handoff import Handoff

Machine = SourceHandoff | DestinationHandoff


@dataclass(frozen=True)
class Code:
    """The code that is explored: the machines themselves, or some with a seeded bug."""

    source: type[SourceHandoff] = SourceHandoff
    destination: type[DestinationHandoff] = DestinationHandoff
    hangs_up_first: bool = True
    """Whether a source that knows of a failed write has ended the session already."""
    waits_for_the_process: bool = True
    """Whether a destination waits for the end of a process that can write by itself."""


class Machines:
    """Calls go to the real code, on a copy; equal calls on equal machines go there once.

    The machines are deterministic in their fields and the call.
    """

    def __init__(self, code: Code) -> None:
        self.code = code
        self._machines: list[Machine] = []
        self._number_of: dict[Hashable, int] = {}
        self._made: dict[Hashable, tuple[int, tuple[Effect, ...]]] = {}
        self._messages: list[Handoff] = []
        self._number_of_message: dict[Handoff, int] = {}

    def __getitem__(self, number: int) -> Machine:
        """A machine by its number, for reading only."""
        return self._machines[number]

    def machine(self, number: int | None) -> Machine:
        """A machine that must exist, for reading only."""
        assert number is not None
        return self._machines[number]

    @property
    def states(self) -> set[SourceState | DestinationState]:
        """The protocol states that were ever reached."""
        return {machine.state for machine in self._machines}

    def add(self, machine: Machine) -> int:
        number = self._number_of.setdefault(_fields(machine), len(self._machines))
        if number == len(self._machines):
            self._machines.append(machine)
        return number

    def call(self, number: int, method: str, *args: Any) -> tuple[int, tuple[Effect, ...]]:
        """The number of the machine after the call, and its effects."""
        key = (number, method, args)
        made = self._made.get(key)
        if made is None:
            machine = _copied(self._machines[number])
            effects = tuple(getattr(machine, method)(*args))
            made = self._made[key] = (self.add(machine), effects)
        return made

    def message(self, number: int) -> Handoff:
        return self._messages[number]

    def number_of(self, message: Handoff) -> int:
        number = self._number_of_message.setdefault(message, len(self._messages))
        if number == len(self._messages):
            self._messages.append(message)
        return number


def checksum(tags: Sequence[int], first: int) -> int:
    """A checksum that differs for different contents, and is a sum over blocks."""
    return sum(content << 6 * place for place, content in enumerate(tags, first))


def _fields(machine: Machine) -> Hashable:
    return (type(machine), *(_hashable(value) for value in vars(machine).values()))


def _hashable(value: Any) -> Hashable:
    if isinstance(value, dict):
        return tuple(value.items())
    return astuple(value) if isinstance(value, HandoffTotals) else value


def _copied(machine: Machine) -> Machine:
    twin = copy.copy(machine)
    for name, value in vars(machine).items():
        if isinstance(value, dict | HandoffTotals):
            setattr(twin, name, copy.copy(value))
    return twin
