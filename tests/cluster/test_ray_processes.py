"""What the driver says of an actor that has failed."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from cluster.ray_processes import cause_of

pytestmark = pytest.mark.quick

IMPORT = (
    "ray::RouterActor.__init__() (pid=30943, ip=10.0.0.1)\n"
    "RuntimeError: The actor with name RouterActor failed to import on the worker.\n\n"
    "ModuleNotFoundError: No module named 'grpc'\n"
)


def test_an_actor_that_could_not_be_imported_names_what_is_missing() -> None:
    cause = ModuleNotFoundError("No module named 'grpc'")
    error = ActorDiedError(RayTaskError("RouterActor.__init__", IMPORT, cause))
    assert error.actor_init_failed
    assert cause_of(error) == "ModuleNotFoundError: No module named 'grpc'"


def test_an_actor_that_has_died_says_so_in_one_line() -> None:
    error = RayActorError(error_msg="The actor died: its worker process was killed.\n\tclass: X\n")
    assert cause_of(error) == "The actor died: its worker process was killed."


def test_a_method_that_has_raised_gives_its_error() -> None:
    error = RayTaskError("start", "Traceback…", OSError("port 80 is taken"))
    assert cause_of(error) == "port 80 is taken"
