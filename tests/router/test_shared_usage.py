"""Limits of keys that several routers count together."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from router.access import shared_usage
from router.access.gate import Gate
from router.access.keys import KeyFile, KeyLimits, generate_key
from router.access.limits import Meter
from router.access.shared_usage import SharedUsage, path_for
from router.errors import OverQuota

LIMITS = KeyLimits(requests_per_minute=4, tokens_per_minute=600, concurrency=2)
CRASHING = """
import os, sys
from pathlib import Path
from router.access.shared_usage import SharedUsage
usage = SharedUsage(Path(sys.argv[1])).usage("alice")
usage.add_running(2)
print("counted", flush=True)
sys.stdin.read()
os._exit(1)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage"


@pytest.fixture
def routers(path: Path) -> Iterator[list[SharedUsage]]:
    opened = [SharedUsage(path) for _ in range(3)]
    yield opened
    for each in opened:
        each.close()


def meters(routers: list[SharedUsage], limits: KeyLimits = LIMITS) -> list[Meter]:
    return [Meter(limits, 0.0, each.usage("alice")) for each in routers]


def num_open(path: Path) -> int:
    return sum(file.resolve() == path for file in Path("/proc/self/fd").iterdir())


def test_requests_and_tokens_are_of_one_bucket(routers: list[SharedUsage]) -> None:
    first, second, third = meters(routers)
    for meter in (first, second, third, first):
        meter.enter(0.0)
        meter.leave()
    with pytest.raises(OverQuota, match="4 requests per minute"):
        second.enter(0.0)
    first.take_prompt(400, 0.0)
    second.take_output(300, 0.0)
    with pytest.raises(OverQuota, match="600 tokens per minute") as caught:
        third.take_prompt(50, 0.0)
    assert caught.value.retry_after_s == pytest.approx(15.0)
    third.take_prompt(50, 15.0)
    second.give_back(50, 15.0)
    first.take_prompt(50, 15.0)


def test_requests_under_way_are_counted_wherever_they_are(routers: list[SharedUsage]) -> None:
    first, second, _ = meters(routers)
    first.enter(0.0)
    second.enter(0.0)
    for meter in (first, second):
        with pytest.raises(OverQuota, match="2 requests of this key are running"):
            meter.enter(0.0)
    first.leave()
    second.enter(0.0)
    second.leave()
    second.leave()


def test_keys_have_counts_of_their_own(routers: list[SharedUsage]) -> None:
    alice, bob = (routers[0].usage(name) for name in ("alice", "bob"))
    assert alice is not None
    assert bob is not None
    alice.add_running(2)
    assert (alice.num_running(9), bob.num_running(9)) == (2, 0)
    again = routers[1].usage("alice")
    assert again is not None
    assert again.num_running(9) == 2
    alice.add_running(-2)


@contextmanager
def crash_after(path: Path) -> Iterator[None]:
    """Another router, which has two requests under way, and is killed in the end."""
    with subprocess.Popen(
        [sys.executable, "-c", CRASHING, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"counted\n"
        yield
        process.kill()


def test_what_a_dead_router_had_under_way_is_forgotten(path: Path) -> None:
    survivor = SharedUsage(path)
    (meter,) = meters([survivor])
    with crash_after(path), pytest.raises(OverQuota):
        meter.enter(0.0)
    meter.enter(0.0)
    meter.enter(0.0)
    survivor.close()


def test_the_next_router_does_not_inherit_what_its_column_held(path: Path) -> None:
    survivor = SharedUsage(path)
    usage = survivor.usage("alice")
    assert usage is not None
    with crash_after(path):
        assert usage.num_running(99) == 2
    successor = SharedUsage(path)
    assert usage.num_running(99) == 0
    successor.close()
    survivor.close()


def test_a_router_that_stands_still_with_the_lock_holds_nobody_up(path: Path) -> None:
    shared = SharedUsage(path)
    (meter,) = meters([shared])
    stuck = os.open(path, os.O_RDWR)
    fcntl.flock(stuck, fcntl.LOCK_EX)
    meter.enter(0.0)
    meter.leave()
    SharedUsage(path).close()
    os.close(stuck)
    shared.close()


def test_the_last_router_takes_the_file_along(path: Path) -> None:
    first, second = SharedUsage(path), SharedUsage(path)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_a_router_that_comes_as_the_last_one_goes_counts_with_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, opened = SharedUsage(path), shared_usage._open

    def open_late(path: Path) -> int:
        fd = opened(path)
        monkeypatch.undo()
        last.close()
        return fd

    monkeypatch.setattr(shared_usage, "_open", open_late)
    first, second = SharedUsage(path), SharedUsage(path)
    ours, theirs = first.usage("alice"), second.usage("alice")
    assert ours is not None
    assert theirs is not None
    ours.add_running(1)
    assert theirs.num_running(9) == 1
    first.close()
    second.close()


def test_a_router_takes_no_file_along_but_its_own(path: Path) -> None:
    first = SharedUsage(path)
    path.unlink()
    second = SharedUsage(path)
    first.close()
    assert path.exists()
    second.close()


def test_the_file_has_all_its_memory_before_anybody_counts(path: Path) -> None:
    shared = SharedUsage(path)
    assert path.stat().st_blocks * 512 >= shared_usage._FILE_BYTES
    shared.close()


def test_a_router_too_many_leaves_nothing_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_usage, "MAX_ROUTERS", 1)
    shared = SharedUsage(path)
    before = num_open(path)
    with pytest.raises(OSError, match="1 routers share it already"):
        SharedUsage(path)
    assert num_open(path) == before
    shared.close()


def test_the_file_is_its_users_alone(path: Path) -> None:
    shared = SharedUsage(path)
    assert path.stat().st_mode & 0o777 == 0o600
    shared.close()
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        SharedUsage(path)


def test_a_key_that_finds_no_room_is_counted_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SharedUsage(path)
    monkeypatch.setattr(shared_usage, "MAX_KEYS", 2)
    found = [shared.usage(name) is not None for name in ("a", "b", "c", "a")]
    assert found == [True, True, False, True]
    monkeypatch.undo()
    shared.close()


def test_only_those_meet_who_serve_the_same_port_with_the_same_keys() -> None:
    assert path_for("keys.yaml", 8000) == path_for("keys.yaml", 8000)
    assert len({path_for("keys.yaml", 8000), path_for("keys.yaml", 8001), path_for("b", 8000)}) == 3


def test_gates_of_two_routers_count_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.access.gate.path_for", lambda *identity: tmp_path / "usage")
    key, hashed = generate_key()
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"alice": {"hash": hashed, "requests_per_minute": 3}}))
    gates = [Gate(KeyFile(str(file)), clock=lambda: 7.0) for _ in range(2)]
    for gate in gates:
        gate.share_usage("same")
    callers = [gate.caller(f"Bearer {key}") for gate in (*gates, *gates)]
    for caller in callers[:3]:
        caller.enter()
        caller.leave()
    with pytest.raises(OverQuota):
        callers[3].enter()
    for gate in gates:
        gate.close()
