"""A process and its parent: the ready line, errors at the start, and the end of standard input."""

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
    bool,
    typer.Option(help="Drain when standard input ends, that is, when the parent process is gone."),
]


def print_ready(facts: Any) -> None:
    """Print one line of JSON on standard output, which carries nothing else."""
    sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
    sys.stdout.flush()


def freeze_loaded_objects() -> None:
    """Freeze all loaded objects for the garbage collector; call once, before serving.

    Modules, models and tokenizers stay until the end. Each collection that traverses them would
    pause the process for a tenth of a second. Also enables the collector, which loading may
    disable.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


def stop_when_stdin_ends() -> None:
    """Send SIGTERM to this process when its standard input ends, because the parent is gone."""
    threading.Thread(target=_wait_for_end, name="standard input", daemon=True).start()


def _wait_for_end() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def exit_with_error(message: str) -> NoReturn:
    """Print an error for the user, and exit with status 2."""
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(2)
