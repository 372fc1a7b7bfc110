"""How a process deals with whoever started it: a line when it serves, a line when it cannot."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from typing import Annotated, Any, NoReturn

import msgspec
import typer

UntilStdinEnds = Annotated[
    bool, typer.Option(help="Drain when standard input ends: whoever holds its other end is dead.")
]


def say_ready(facts: Any) -> None:
    """One line of JSON on standard output, which carries nothing else."""
    sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
    sys.stdout.flush()


def keep_what_is_loaded() -> None:
    """To be called once, when the process is about to serve.

    Modules, models and tokenizers stay until the end: were the garbage collector to look through
    them again and again, nothing would move for a tenth of a second each time. It may have been
    disabled while they were loaded.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


def end_with_stdin() -> None:
    """SIGTERM to this process when nobody holds the other end of its standard input any more."""
    threading.Thread(target=_wait_for_the_end, name="standard input", daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def leave(message: str) -> NoReturn:
    """The cause, for a person, and exit status 2."""
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(2)
