"""Each test is in one tier, and `quick` is kept to its word."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable

import pytest

from tests.quick import NotQuick

pytestmark = pytest.mark.quick


def _connects() -> None:
    with socket.socket() as probe:
        probe.connect(("127.0.0.1", 9))


def _binds() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))


@pytest.mark.parametrize(
    "act",
    [
        _connects,
        _binds,
        lambda: subprocess.run(["true"], check=True),
        lambda: os.system("true"),
        lambda: ctypes.CDLL("/nowhere/kernels-0123abcd.so"),
    ],
    ids=["connect", "bind", "subprocess", "system", "kernels"],
)
def test_a_quick_test_that_leaves_its_process_fails(act: Callable[[], object]) -> None:
    with pytest.raises(NotQuick, match="marked quick, but"):
        act()


def test_what_the_process_has_already_is_at_hand() -> None:
    ctypes.CDLL(None)
