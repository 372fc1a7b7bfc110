"""A test marked `quick` fails where it opens a connection, starts a process or loads kernels."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

NETWORK = {"socket.bind", "socket.connect", "socket.getaddrinfo"}
PROCESSES = {"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
KERNELS = re.compile(r"kernels-\w+\.so$")


class NotQuick(BaseException):
    """No Exception, so that what is tested cannot take it for a failure of the system."""


class Gate:
    """Sees what Python's audit events tell of; what C++ does by itself (gRPC, UCX) it does not."""

    def __init__(self) -> None:
        self.closed = False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.closed:
            return
        if event in NETWORK or event in PROCESSES:
            raise NotQuick(f"marked quick, but does {event}{arguments[:2]!r}")
        if event == "ctypes.dlopen" and KERNELS.search(str(arguments[0])):
            raise NotQuick(f"marked quick, but loads compiled kernels: {arguments[0]}")


GATE = Gate()


def pytest_configure() -> None:
    sys.addaudithook(GATE)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    GATE.closed = item.get_closest_marker("quick") is not None
    try:
        return (yield)
    finally:
        GATE.closed = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"quick", "long"} <= {mark.name for mark in item.iter_markers()}:
            raise pytest.UsageError(f"{item.nodeid} is marked quick and long")
