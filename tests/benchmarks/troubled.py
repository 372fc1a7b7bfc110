"""Parts of benchmarks.gpu that come to grief, by their names."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.gpu.context import Context, guarded
from benchmarks.gpu.finding import Finding, check, note

SLEEPER = [sys.executable, "-c", "import sys; sys.stdin.read()"]


def run(context: Context) -> Iterator[Finding]:
    yield check("begins", True)
    yield from TROUBLES[context.part](context)
    yield check("goes on", True)


def fine(context: Context) -> Iterator[Finding]:
    yield note("device", context.device)


def raises(context: Context) -> Iterator[Finding]:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
    yield


def guards(context: Context) -> Iterator[Finding]:
    import torch

    def no_memory() -> Iterator[Finding]:
        raise torch.OutOfMemoryError("tried to allocate 200 GB")
        yield

    def wrong() -> Iterator[Finding]:
        raise ValueError("no such shape")
        yield

    yield from guarded(context, "large", no_memory)
    yield from guarded(context, "odd", wrong)
    yield from guarded(context, "device", lambda: raises(context))


def dies(context: Context) -> Iterator[Finding]:
    print("the last words", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    yield note("never", "")


def hangs(context: Context) -> Iterator[Finding]:
    """In C, where no signal handler of Python's runs, beside a process that it has started."""
    sleeper = subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, start_new_session=True)
    yield note("started", sleeper.pid, pid=sleeper.pid, part=os.getpid())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    ctypes.CDLL(None).pause()
    while True:
        ctypes.CDLL(None).pause()


TROUBLES = {it.__name__: it for it in (fine, raises, guards, dies, hangs)}
