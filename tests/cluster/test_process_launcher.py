"""Children on this machine, and what is told of how they end."""

from __future__ import annotations

import pytest

from cluster.process_launcher import Child


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
