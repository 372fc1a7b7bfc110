"""Where a process writes what it has to say: standard error, a line each."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Annotated

import typer

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
START_LOGGERS = ("tandem.start", "engine.kernels.build", "engine.kernels.lock")
"""What they say at "info" is worth a person's while who waits for a process to start."""
LEVELS = ("debug", "info", "warning", "error")
ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def _known(level: str) -> str:
    if level.lower() not in LEVELS:
        raise typer.BadParameter(f"{level!r}: choose among {', '.join(LEVELS)}")
    return level.lower()


LogLevel = Annotated[
    str,
    typer.Option(help="What is worth a line.", envvar="TANDEM_LOG_LEVEL", callback=_known),
]


class Discreet(logging.Formatter):
    """Tells where and as what an exception was raised, and not its message: in a process that has
    clients' texts in its hands, any library's message may quote them."""

    def formatException(self, ei: ExceptionInfo) -> str:  # type: ignore[override]
        kind, error, where = ei
        lines = [*traceback.format_tb(where), f"{kind.__module__}.{kind.__qualname__}"]
        causes = {error.__cause__, error.__context__} - {None}
        lines += [f" after {type(cause).__qualname__}" for cause in causes]
        return "".join(lines)


def start_logging(level: str, *, discreet: bool = False) -> None:
    """Once for each process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Discreet(FORMAT) if discreet else logging.Formatter(FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler])


class _Forwarder(logging.Handler):
    def __init__(self, hear: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        self._hear(record.getMessage())


def forward_start_lines(hear: Callable[[str], None]) -> None:
    """`hear(line)` is told in any thread what START_LOGGERS say, where nobody reads the log."""
    for name in START_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(_Forwarder(hear))
