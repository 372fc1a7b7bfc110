"""Where compiled kernels come from: shipped, compiled once by one of many, or nowhere."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import KernelError
from engine.kernels import build
from engine.kernels.library import Kernels
from engine.kernels.lock import only_one
from engine.kernels.targets import TARGETS, targets_here, targets_of

GENERIC = TARGETS[-1]
ZEN3 = frozenset(["fpu", "sse2", "avx", "avx2", "fma", "bmi1", "bmi2", "f16c"])
SKYLAKE_X = ZEN3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])

COMPILER = """#!/bin/sh
echo "$@" >> {calls}
for last; do :; done
echo compiled > $last
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a compiler that does nothing writes down how it is called; `g++` is its name."""
    compiler, calls = tmp_path / "bin" / "g++", tmp_path / "calls"
    compiler.parent.mkdir()
    compiler.write_text(COMPILER.format(calls=calls))
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}:/bin:/usr/bin")
    return calls


def num_links(calls: Path) -> int:
    return calls.read_text().count("-shared") if calls.exists() else 0


@pytest.mark.parametrize(
    ("machine", "instructions", "expected"),
    [
        ("x86_64", SKYLAKE_X, ["avx512", "avx2", "generic"]),
        ("x86_64", SKYLAKE_X | {"avx512_bf16"}, ["avx512_bf16", "avx512", "avx2", "generic"]),
        ("x86_64", ZEN3, ["avx2", "generic"]),
        ("x86_64", ZEN3 - {"fma"}, ["generic"]),
        ("aarch64", frozenset[str](), ["neon", "generic"]),
        ("riscv64", frozenset[str](), ["generic"]),
    ],
)
def test_a_cpu_gets_the_widest_vectors_that_it_has(
    machine: str, instructions: frozenset[str], expected: list[str]
) -> None:
    assert [target.name for target in targets_of(machine, instructions)] == expected


def test_compilers_are_told_of_instructions_in_their_own_words() -> None:
    [amx] = [target for target in TARGETS if target.name == "amx"]
    assert {"-mavx2", "-mbmi", "-mavx512f", "-mavx512bf16", "-mamx-bf16"} <= {*amx.options}


def test_instructions_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_KERNELS", "generic")
    assert build.choose_target() == GENERIC
    monkeypatch.setenv("TANDEM_KERNELS", "mmx")
    with pytest.raises(KernelError, match=r'TANDEM_KERNELS is "mmx": this CPU runs .*generic'):
        build.choose_target()


def test_it_is_compiled_once(calls: Path, tmp_path: Path) -> None:
    first = build.build(tmp_path / "cache", GENERIC)
    assert build.build(tmp_path / "cache", GENERIC) == first
    assert num_links(calls) == 1


def test_whoever_starts_first_is_told_why_it_takes_longer(
    calls: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    build.build(tmp_path / "cache", GENERIC)
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("compiling CPU kernels (generic) for this machine, once")
    assert said[1].startswith("compiled CPU kernels in ")


BUILD = """
import sys
from pathlib import Path
from engine.kernels.build import build
from engine.kernels.targets import TARGETS
print(build(Path(sys.argv[1]), TARGETS[-1]))
"""


def test_workers_that_start_together_compile_once(calls: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path / "cache")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {process.communicate(timeout=60)[0] for process in started}
    assert len(found) == 1
    assert num_links(calls) == 1


HOLD = """
import sys, time
from pathlib import Path
from engine.kernels.lock import only_one
with only_one(Path(sys.argv[1]), 60):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_compiler_that_dies_leaves_no_lock(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.kill()
    with only_one(tmp_path / "lock", 60):
        pass


def test_one_that_stands_still_stops_nobody_for_good(
    holder: subprocess.Popen[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.kill(holder.pid, signal.SIGSTOP)
    began = time.monotonic()
    with only_one(tmp_path / "lock", 0.2):
        assert time.monotonic() - began >= 0.2
    assert "going on without it" in caplog.text


def test_a_shipped_library_is_preferred(calls: Path, tmp_path: Path) -> None:
    target = targets_here()[0]
    shipped = build.build(tmp_path / "prebuilt", target)
    calls.unlink()
    found = build.find_or_build(tmp_path / "cache", tmp_path / "prebuilt")
    assert found == (shipped, target.name)
    assert not calls.exists()


def test_what_was_made_of_other_sources_or_flags_is_never_taken(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = build.build(tmp_path / "prebuilt", targets_here()[0])
    monkeypatch.setattr(build, "_FLAGS", ("-std=c++17", "-O1", "-fPIC"))
    found, _ = build.find_or_build(tmp_path / "cache", tmp_path / "prebuilt")
    assert found != shipped
    assert found.parent == tmp_path / "cache"


def test_libraries_are_made_ahead_for_all_instructions_of_a_kind(
    calls: Path, tmp_path: Path
) -> None:
    into = tmp_path / "prebuilt"
    command = [sys.executable, "-m", "engine.kernels", "--into", str(into)]
    chosen = ["--target", "avx2", "--target", "neon"]
    subprocess.run([*command, *chosen], check=True, timeout=60, capture_output=True)
    names = sorted(path.name.rsplit("-", 1)[0] for path in into.iterdir())
    assert names == ["kernels-avx2", "kernels-neon"]


def test_a_compiler_that_fails_is_quoted(calls: Path, tmp_path: Path) -> None:
    (tmp_path / "bin" / "g++").write_text("#!/bin/sh\necho out of luck >&2\nexit 1\n")
    with pytest.raises(KernelError, match=r"g\+\+ failed: out of luck"):
        build.build(tmp_path / "cache", GENERIC)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KernelError, match="file cannot hold the kernels"):
        build.build(tmp_path / "file", GENERIC)


def test_a_broken_library_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kernels.so").write_bytes(b"cut off")
    with pytest.raises(KernelError, match=r"kernels\.so cannot be loaded"):
        Kernels(tmp_path / "kernels.so", "generic")
