"""Children on this machine, and what is told of how they end."""

from __future__ import annotations

import pytest

from cluster.errors import StartFailed
from cluster.process_launcher import Child, ProcessLauncher, share_cores
from router.config import RouterConfig
from runtime.listen import reserve_port
from worker.config import WorkerConfig


def test_of_a_killed_child_the_signal_is_told_and_not_what_it_said_before() -> None:
    child = Child("talker", ["tests.cluster.talker"])
    assert child.wait_ready(60) is not None
    child.process.kill()
    child.stop(60)
    assert child.last_words() == "killed by SIGKILL"


def test_a_child_that_ends_by_itself_is_known_by_its_last_line() -> None:
    child = Child("talker", ["tests.cluster.talker"])
    assert child.wait_ready(60) is not None
    assert child.process.stdin is not None
    child.process.stdin.close()
    child.stop(60)
    assert child.last_words() == "12:01 WARNING mind the gap"


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
