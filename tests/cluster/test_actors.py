"""The Ray actors as Ray sees them."""

from __future__ import annotations

import inspect

import pytest

from cluster.actors import RouterActor, WorkerActor

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("actor", [RouterActor, WorkerActor])
def test_methods_run_beside_each_other(actor: type) -> None:
    """With one coroutine among them Ray runs all on one event loop: a worker's status would be
    heard when it has loaded, and no sooner."""
    methods = inspect.getmembers(actor, inspect.isfunction)
    assert methods
    assert [name for name, method in methods if inspect.iscoroutinefunction(method)] == []
