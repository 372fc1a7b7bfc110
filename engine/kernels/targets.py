"""Compilation targets: CPU instruction sets, and which of them this machine has."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

_AVX2 = ("avx2", "fma", "bmi1", "bmi2", "f16c")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_OPTIONS = {"bmi1": "bmi", "avx512_bf16": "avx512bf16"}
"""Compilers call these otherwise than Linux does."""


@dataclass(frozen=True, slots=True)
class Target:
    """Instructions by their names in /proc/cpuinfo, of one kind of machine or of any."""

    name: str
    instructions: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """The compiler's options for these instructions."""
        names = (_OPTIONS.get(name, name) for name in self.instructions)
        return tuple(f"-m{name.replace('_', '-')}" for name in names)

    def runs_on(self, machine: str, instructions: frozenset[str]) -> bool:
        fits = not self.machines or machine in self.machines
        return fits and instructions.issuperset(self.instructions)


_X86 = ("x86_64", "AMD64")
TARGETS = (
    Target("amx", (*_AVX512, "avx512_bf16", "amx_tile", "amx_bf16"), _X86),
    Target("avx512_bf16", (*_AVX512, "avx512_bf16"), _X86),
    Target("avx512", _AVX512, _X86),
    Target("avx2", _AVX2, _X86),
    Target("neon", (), ("aarch64", "arm64")),
    Target("generic"),
)
"""The fastest first."""


def targets_of(machine: str, instructions: frozenset[str]) -> list[Target]:
    """Targets that such a CPU can run, the fastest first."""
    return [target for target in TARGETS if target.runs_on(machine, instructions)]


def targets_here() -> list[Target]:
    """Targets that this machine can run; without /proc/cpuinfo, those without instructions."""
    return targets_of(platform.machine(), _instructions(Path("/proc/cpuinfo")))


def _instructions(cpuinfo: Path) -> frozenset[str]:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())
