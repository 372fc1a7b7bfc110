"""The parts of the script, in the order in which they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from benchmarks.gpu.finding import Finding, Kind

_WRONG = {Kind.RED, Kind.FAILED}


@dataclass(frozen=True, slots=True)
class Part:
    """A part that runs by itself; it is killed after `limit_s`.

    With `checks` it is there to prove that something is right: it must find something green.
    """

    name: str
    title: str
    module: str
    limit_s: float
    checks: bool
    cpu_environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of its process on a CPU."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of a part; `log` is the end of what its process wrote, if it did not go well."""

    name: str
    seconds: float
    findings: tuple[Finding, ...]
    checks: bool
    log: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def right(self) -> bool:
        """Nothing was wrong, and a part that checks has proven something."""
        kinds = {finding.kind for finding in self.findings}
        return not kinds & _WRONG and (Kind.GREEN in kinds or not self.checks)

    @property
    def verdict(self) -> str:
        """In one word or two, for the table."""
        if any(finding.kind in _WRONG for finding in self.findings):
            return "RED"
        if not self.checks:
            return "measured" if self.findings else "nothing"
        return "green" if self.right else "not proven"

    def count(self, kind: Kind) -> int:
        return sum(finding.kind is kind for finding in self.findings)


def _part(
    name: str, title: str, limit_s: float, checks: bool = True, **cpu_environment: str
) -> Part:
    module = "benchmarks.gpu.parts." + name.partition("-")[0]
    return Part(name, title, module, limit_s, checks, cpu_environment)


PARTS = (
    _part("versions", "versions, and what was chosen", 60, checks=False),
    _part("kernels", "Triton kernels against PyTorch", 120, TRITON_INTERPRET="1"),
    _part("attention", "attention in steps against the formula", 240),
    _part("graphs", "captured decode steps against eager ones", 60),
    _part("parity", "answers against transformers", 120),
    _part("nixl", "NIXL between two processes on one device", 60),
    _part("handoff", "two workers on one device against one alone", 180),
    _part("speed-1b", "speed of a 1B-shaped model, bfloat16", 90, checks=False),
    _part("speed-8b", "speed of an 8B-shaped model, bfloat16", 120, checks=False),
    _part("host", "sampling, and the host's time for a step", 90),
    _part("goodput", "two workers that share the device beside one", 120, checks=False),
)


def find_parts(names: list[str]) -> list[Part]:
    """The parts of these names in their own order, all without names; KeyError for others."""
    by_name = {part.name: part for part in PARTS}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise KeyError(f"{', '.join(unknown)}: none of {', '.join(by_name)}")
    return [part for part in PARTS if not names or part.name in names]
