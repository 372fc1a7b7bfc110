"""SPEC, a short text that describes requests, and its grammar.

    SPEC    = [KIND ":"] LENGTHS {"," OPTION}
            | "conversation" [":" OPTION {"," OPTION}]
            | "mix:" PHASE {"," (PHASE | OPTION)}         options belong to the phase before them
    PHASE   = ([KIND ":"] LENGTHS | "conversation") "@" TIME
    LENGTHS = PROMPT "/" ANSWER                           tokens, on average
    OPTION  = NAME "=" VALUE
    TIME    = a number and ms, s, m or h

`KINDS` says which options each kind has, with their defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sim.traces.bad_trace import BadSpec, did_you_mean

MIX = "mix"
CONVERSATION = "conversation"
DEFAULT_KIND = "poisson"

SIGMA = {"sigma": 0.4}
"""Standard deviation of the logarithm of lengths; 0 makes all equal."""
KINDS: dict[str, dict[str, float]] = {
    "poisson": {**SIGMA},
    "gamma": {**SIGMA, "cv": 3.0},
    "even": {**SIGMA},
    "burst": {**SIGMA, "times": 5.0, "on": 5.0, "off": 25.0},
    CONVERSATION: {
        "turns": 5,
        "prefix": 2000,
        "append": 200,
        "answer": 150,
        "think": 10.0,
        "sigma": 0.0,
    },
}
WHOLE = {"turns", "prefix", "append", "answer"}
TIMES = {"on", "off", "think"}
MAY_BE_ZERO = {"sigma", "prefix", "off"}
RATE = "rate"
"""An option of every kind: requests a second, instead of those of `--rate`."""
UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")
_TIME = re.compile(rf"({_NUMBER.pattern})({'|'.join(UNITS_S)})")
_LENGTHS = re.compile(r"(\d+)/(\d+)")
_KIND = re.compile(r"[a-z]+")


@dataclass(frozen=True, slots=True)
class Phase:
    """Requests of one kind; `lengths` are the means of prompts and answers in tokens, which
    conversations have as options."""

    kind: str
    options: dict[str, float]
    lengths: tuple[int, int] | None = None
    seconds: float | None = None
    """How long it lasts; None: until there are enough requests."""


class _Part(NamedTuple):
    """A piece of the text, and where it begins."""

    text: str
    at: int

    def cut(self, separator: str) -> tuple[_Part, _Part | None]:
        """What is before and behind the first separator; None where there is none."""
        before, found, behind = self.text.partition(separator)
        at = self.at + len(before) + len(separator)
        return _Part(before, self.at), _Part(behind, at) if found else None


def is_spec(text: str) -> bool:
    """Whether a text that names no file is meant as a SPEC."""
    kind, colon, _ = text.partition(":")
    return bool(colon) or kind in KINDS or kind == MIX or _LENGTHS.match(kind) is not None


def parse(text: str) -> list[Phase]:
    """The phases, at least one. Raises BadSpec, which shows where the mistake is."""
    return _Parser(text).phases()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text

    def phases(self) -> list[Phase]:
        head, behind = _Part(self._text, 0).cut(":")
        if head.text == MIX:
            return self._mix(behind or self._end())
        if behind is None and _KIND.match(head.text) is None:
            head, behind = _Part(DEFAULT_KIND, 0), head
        kind, lengths, parts = head.text, None, list(_split(behind))
        if kind not in KINDS:
            raise self._bad(head, self._unknown("kind", kind, [*KINDS, MIX]))
        if parts and "=" not in parts[0].text:
            lengths = self._lengths(kind, parts.pop(0))
        return [self._phase(head, kind, lengths, parts, None)]

    def _mix(self, behind: _Part) -> list[Phase]:
        heads: list[tuple[_Part, list[_Part]]] = []
        for part in _split(behind):
            if "=" not in part.text:
                heads.append((part, []))
            elif heads:
                heads[-1][1].append(part)
            else:
                raise self._bad(part, "an option belongs behind its phase, such as 2048/128@60s")
        return [self._timed(head, options) for head, options in heads]

    def _timed(self, head: _Part, options: list[_Part]) -> Phase:
        what, time = head.cut("@")
        if time is None:
            raise self._bad(head, f"a phase of a mix needs its time: {head.text or '2048/128'}@60s")
        kind_part, lengths_part = what.cut(":")
        if lengths_part is None and _KIND.fullmatch(what.text) is None:
            kind_part, lengths_part = _Part(DEFAULT_KIND, what.at), what
        kind = kind_part.text
        if kind not in KINDS:
            raise self._bad(kind_part, self._unknown("kind", kind, KINDS))
        lengths = None if lengths_part is None else self._lengths(kind, lengths_part)
        return self._phase(what, kind, lengths, options, self._seconds(time))

    def _phase(
        self,
        head: _Part,
        kind: str,
        lengths: tuple[int, int] | None,
        parts: list[_Part],
        seconds: float | None,
    ) -> Phase:
        if kind != CONVERSATION and lengths is None:
            raise self._bad(head, f"{kind} needs lengths of prompts and answers: {kind}:2048/128")
        options = dict(KINDS[kind])
        for part in parts:
            name, value = self._option(kind, part)
            options[name] = value
        return Phase(kind, options, lengths, seconds)

    def _lengths(self, kind: str, part: _Part) -> tuple[int, int]:
        if kind == CONVERSATION:
            raise self._bad(part, f"{CONVERSATION} has options instead of lengths: prefix=2000")
        found = _LENGTHS.fullmatch(part.text)
        if found is None or int(found[1]) < 1 or int(found[2]) < 1:
            wanted = "wanted tokens of prompts and answers such as 2048/128"
            raise self._bad(part, f"{wanted}, found {part.text or 'nothing'}")
        return int(found[1]), int(found[2])

    def _option(self, kind: str, part: _Part) -> tuple[str, float]:
        name, value = part.cut("=")
        if value is None:
            raise self._bad(
                part, f"wanted an option such as sigma=0.4, found {part.text or 'nothing'}"
            )
        known = [*KINDS[kind], RATE]
        if name.text not in known:
            raise self._bad(name, self._unknown(f"option of {kind}", name.text, known))
        return name.text, self._value(name.text, value)

    def _value(self, name: str, part: _Part) -> float:
        if name in TIMES:
            value = self._seconds(part)
        elif _NUMBER.fullmatch(part.text) is None or (name in WHOLE and not part.text.isdigit()):
            kind = "a whole number" if name in WHOLE else "a number"
            raise self._bad(part, f"{name} must be {kind}, found {part.text or 'nothing'}")
        else:
            value = float(part.text)
        if value <= 0 and name not in MAY_BE_ZERO:
            raise self._bad(part, f"{name} must be above 0")
        return value

    def _seconds(self, part: _Part) -> float:
        found = _TIME.fullmatch(part.text)
        if found is None:
            wanted = "wanted a time such as 500ms, 60s or 2m"
            raise self._bad(part, f"{wanted}, found {part.text or 'nothing'}")
        return float(found[1]) * UNITS_S[found[found.lastindex or 0]]

    def _end(self) -> _Part:
        raise self._bad(_Part("", len(self._text)), f"{MIX} needs phases: {MIX}:2048/128@60s")

    def _unknown(self, what: str, name: str, known: Iterable[str]) -> str:
        names = list(known)
        return f"unknown {what} {name!r}{did_you_mean(name, names)} (known: {', '.join(names)})"

    def _bad(self, part: _Part, message: str) -> BadSpec:
        return BadSpec(self._text, part.at, message)


def _split(part: _Part | None) -> Iterator[_Part]:
    """The parts between commas."""
    while part is not None:
        first, part = part.cut(",")
        yield first
