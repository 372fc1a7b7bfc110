"""Ctrl-C and its kind, from the first import to the end of draining."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from cluster.interruptible import call_interruptibly
from cluster.stop_signal import (
    INTERRUPTED,
    STOP_SIGNALS,
    StopSignal,
    interrupt,
    leave_at_once,
    on_stop_signals,
)


@pytest.fixture(autouse=True)
def handlers_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may themselves run under nohup
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_ends_the_wait_and_the_second_the_draining(number: signal.Signals) -> None:
    stop = StopSignal()
    assert not stop.wait(0)
    os.kill(os.getpid(), number)
    assert stop.wait(60)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_before_anybody_waits_a_signal_interrupts() -> None:
    StopSignal()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_under_nohup_a_hangup_is_no_reason_to_end() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    on_stop_signals(interrupt)
    os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_while_modules_load_a_signal_is_one_line_and_no_traceback() -> None:
    code = (
        "import os, signal\n"
        "from cluster.stop_signal import leave_at_once, on_stop_signals\n"
        "on_stop_signals(leave_at_once)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "raise SystemExit('it went on')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (INTERRUPTED, "error: interrupted\n")
    assert leave_at_once.__doc__


def test_the_command_hears_signals_before_it_loads_anything_slow() -> None:
    code = "import sys, cluster.cli; print(*sorted({'typer', 'grpc', 'msgspec'} & {*sys.modules}))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (told.returncode, told.stdout.strip()) == (0, "")


def test_a_call_that_hears_nothing_is_left_behind_by_an_interruption() -> None:
    signal.signal(signal.SIGTERM, interrupt)
    never = threading.Event()

    def deaf() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        never.wait()

    with pytest.raises(KeyboardInterrupt):
        call_interruptibly(deaf)
    never.set()


def test_what_such_a_call_returns_and_raises_is_its_callers() -> None:
    def fail() -> None:
        raise ValueError("no such option")

    assert call_interruptibly(lambda: 5) == 5
    with pytest.raises(ValueError, match="no such option"):
        call_interruptibly(fail)
