"""A file of requests, whose form is recognised by its content."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sim.traces.arrival import Arrival
from sim.traces.bad_trace import BadTrace
from sim.traces.lengths_file import lengths
from sim.traces.recorded import AZURE_COLUMNS, azure, mooncake

Read = Callable[[Path, int], list[Arrival]]
"""Reads the first requests of a file, at most so many."""


def read_trace(file: Path, count: int, skip: int = 0, seed: int = 1) -> list[Arrival]:
    """At most `count` requests behind the first `skip`, by time; there is at least one.

    Mooncake's traces are JSON lines, Azure's and files of lengths are CSV. Raises BadTrace.
    """
    try:
        arrivals = _reader(file, seed)(file, skip + count)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadTrace(f"{file} cannot be read: {reason}") from error
    if not arrivals:
        raise BadTrace(f"{file} has no requests")
    if len(arrivals) <= skip:
        raise BadTrace(f"{file} has {len(arrivals)} requests: none is left behind {skip}")
    begin_s = arrivals[skip].at_s
    return [each.later(-begin_s) for each in arrivals[skip:]]


def _reader(file: Path, seed: int) -> Read:
    with file.open(newline="") as lines:
        first = next((line.strip() for line in lines if line.strip()), "")
    if not first:
        raise BadTrace(f"{file} is empty")
    if first.startswith("{"):
        return mooncake
    columns = [name.strip() for name in first.split(",")]
    if set(AZURE_COLUMNS) <= set(columns):
        return azure
    return partial(lengths, seed=seed)
