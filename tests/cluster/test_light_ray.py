"""A light Ray that does not come up at once."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ray._private import ray_constants
from ray._private.services import get_node_ip_address

from cluster.errors import StartFailed
from cluster.light_ray import ATTEMPTS, _children, start_light_ray


class Attempts:
    """Stands for `ray.init`: leaves a process behind with each failure, as that does."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.options: list[dict[str, Any]] = []
        self.left: list[subprocess.Popen[bytes]] = []

    def __call__(self, **options: Any) -> None:
        self.options.append(options)
        if self.errors:
            self.left.append(subprocess.Popen(["sleep", "600"]))
            raise self.errors.pop(0)


def test_it_is_started_again_and_what_was_left_is_ended() -> None:
    init = Attempts(Exception("The current node timed out"), RuntimeError("Failed to start GCS"))
    start_light_ray(init, num_cpus=2)
    assert [it["num_cpus"] for it in init.options] == [2, 2, 2]
    assert [it.poll() is not None for it in init.left] == [True, True]


def test_it_stays_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own processes are told by the environment, this one by Ray's constant."""
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setenv(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "1")
    start_light_ray(Attempts())
    assert os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] == "0"
    assert get_node_ip_address() == "127.0.0.1"


def test_the_last_failure_is_told_with_what_to_do() -> None:
    init = Attempts(*(Exception(f"The current node timed out, {n}") for n in range(ATTEMPTS)))
    with pytest.raises(StartFailed, match=r"in 3 attempts.*timed out, 2.*--without-ray"):
        start_light_ray(init)
    assert all(it.poll() is not None for it in init.left)


def test_an_option_that_ray_does_not_take_is_not_tried_again() -> None:
    init = Attempts(ValueError("runtime_env: unknown field"))
    with pytest.raises(ValueError, match="unknown field"):
        start_light_ray(init)
    assert len(init.options) == 1
    init.left[0].kill()
    init.left[0].wait()


def test_a_thread_that_ends_while_it_is_asked_for_its_children_is_no_failure(
    tmp_path: Path,
) -> None:
    lives, has_ended = tmp_path / "1", tmp_path / "2"
    for thread in (lives, has_ended):
        thread.mkdir()
    (lives / "children").write_text("17 18 ")
    assert _children(tmp_path) == {17, 18}
