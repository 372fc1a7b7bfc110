"""Logging to standard error."""

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
"""Loggers whose "info" lines are shown to the user while a process starts."""
LEVELS = ("debug", "info", "warning", "error")
ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def _known(level: str) -> str:
    if level.lower() not in LEVELS:
        raise typer.BadParameter(f"{level!r}: choose one of {', '.join(LEVELS)}")
    return level.lower()


LogLevel = Annotated[
    str,
    typer.Option(
        help="Minimum level of log lines: debug, info, warning or error.",
        envvar="TANDEM_LOG_LEVEL",
        callback=_known,
    ),
]


class HideMessages(logging.Formatter):
    """Formats an exception's traceback and type, but not its message, which may quote clients'
    texts."""

    def formatException(self, ei: ExceptionInfo) -> str:  # type: ignore[override]
        kind, error, where = ei
        lines = [*traceback.format_tb(where), f"{kind.__module__}.{kind.__qualname__}"]
        causes = {error.__cause__, error.__context__} - {None}
        lines += [f" after {type(cause).__qualname__}" for cause in causes]
        return "".join(lines)


def start_logging(level: str, *, hide_messages: bool = False) -> None:
    """Set up logging; call once per process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(HideMessages(FORMAT) if hide_messages else logging.Formatter(FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler])


class _Forwarder(logging.Handler):
    def __init__(self, on_line: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._on_line = on_line

    def emit(self, record: logging.LogRecord) -> None:
        self._on_line(record.getMessage())


def forward_start_lines(on_line: Callable[[str], None]) -> None:
    """Call `on_line(line)` for each "info" line of START_LOGGERS, from any thread."""
    for name in START_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(_Forwarder(on_line))
