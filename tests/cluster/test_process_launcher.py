"""Children on this machine, and what is told of how they end."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.child import Child, shown_text
from cluster.errors import StartFailed
from cluster.process_launcher import ProcessLauncher, share_cores
from router.config import RouterConfig
from runtime.listen import reserve_port
from worker.config import WorkerConfig


def test_of_a_killed_child_the_signal_is_told_and_not_what_it_said_before() -> None:
    child = Child("talker", ["tests.cluster.talker"])
    assert child.wait_ready(60) is not None
    child.process.kill()
    child.stop(60)
    assert child.exit_reason() == "killed by SIGKILL"


def test_a_child_that_ends_by_itself_is_known_by_its_last_line() -> None:
    child = Child("talker", ["tests.cluster.talker"])
    assert child.wait_ready(60) is not None
    assert child.process.stdin is not None
    child.process.stdin.close()
    child.stop(60)
    assert child.exit_reason() == "12:01 WARNING mind the gap"


def test_what_a_child_warns_of_is_heard_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    child = Child("talker", ["tests.cluster.talker"])
    assert child.wait_ready(60) is not None
    child.process.kill()
    child.stop(60)
    assert capsys.readouterr().err == "talker   12:01 WARNING mind the gap\n"


def test_a_router_whose_fleet_port_is_taken_does_not_start_and_says_what_to_set() -> None:
    with reserve_port("127.0.0.1", 0, "port") as taken:
        taken.listen()
        port = taken.getsockname()[1]
        config = RouterConfig(models={}, fleet_port=port)
        with pytest.raises(StartFailed, match=f"router-0: .*127.0.0.1:{port}.*router.fleet_port"):
            ProcessLauncher().start_router("router-0", config)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, (3, 6)), ({"most_threads": 4}, (3, 4)), ({"threads": 2}, (2, None))],
)
def test_workers_of_one_machine_share_its_cores_and_take_those_that_are_idle(
    given: dict[str, int], expected: tuple[int, int | None]
) -> None:
    config = share_cores(WorkerConfig(model="m", **given), num_cores=6)
    assert (config.threads, config.most_threads) == expected


@pytest.mark.parametrize(
    ("line", "heard"),
    [
        ("12:01 INFO engine.kernels.build: compiling kernels", "compiling kernels"),
        ("12:01 INFO tandem.start: weights 25 % of 8.0 MB loaded", "weights 25 % of 8.0 MB loaded"),
        ("12:01 INFO tandem.router: a session ended", None),
        ("12:01 WARNING engine.x: mind the gap", "12:01 WARNING engine.x: mind the gap"),
    ],
)
def test_who_waits_for_a_start_reads_what_takes_so_long(line: str, heard: str | None) -> None:
    assert shown_text(line) == heard


def test_what_lies_in_the_users_directory_is_not_imported_in_place_of_our_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("router.py", "runtime.py", "typer.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    child = Child("router-0", ["router", "--model", "/no/such/model"])
    with pytest.raises(StartFailed, match="/no/such/model"):
        child.wait_ready(60)
    child.stop(60)
