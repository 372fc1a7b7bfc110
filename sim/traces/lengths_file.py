"""Lengths of prompts and answers from a CSV file with columns of these names."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from sim.traces.arrival import Arrival, own_blocks
from sim.traces.bad_trace import BadTrace, did_you_mean
from sim.traces.recorded import seconds_of

PROMPT, ANSWER, TIMESTAMP = "prompt", "answer", "timestamp"
COLUMNS = (PROMPT, ANSWER, TIMESTAMP)


def lengths(file: Path, count: int, seed: int = 1) -> list[Arrival]:
    """The first `count` rows, by time; prompts are taken to share nothing.

    Without a column `timestamp` (seconds, or a date with a time) they come one each second on
    average, at random times that `seed` draws. Raises BadTrace.
    """
    arrivals: list[Arrival] = []
    draw, at_s = random.Random(seed), 0.0
    with file.open(newline="") as lines:
        reader = csv.DictReader(lines, skipinitialspace=True)
        check_columns(file, reader.fieldnames or ())
        for number, row in enumerate(islice(reader, count)):
            at_s += draw.expovariate(1.0)
            try:
                arrivals.append(_arrival(row, number, at_s))
            except (TypeError, ValueError) as error:
                raise BadTrace(f"{file}, line {number + 2}: {error}") from error
    arrivals.sort(key=lambda arrival: arrival.at_s)
    return [each.later(-arrivals[0].at_s) for each in arrivals]


def check_columns(file: Path, found: Sequence[str]) -> None:
    """Raises BadTrace, which names the column that is unknown or missing."""
    for name in found:
        if name not in COLUMNS:
            wanted = f"known are {', '.join(COLUMNS)}, and the columns of Azure's traces"
            raise BadTrace(f"{file}: unknown column {name}{did_you_mean(name, COLUMNS)} ({wanted})")
    for name in (PROMPT, ANSWER):
        if name not in found:
            raise BadTrace(f"{file}: there is no column {name}, only {', '.join(found)}")


def _arrival(row: Mapping[str, str | None], number: int, at_s: float) -> Arrival:
    num_prompt, num_new = (_tokens(row, name) for name in (PROMPT, ANSWER))
    time = row.get(TIMESTAMP)
    if time is not None:
        at_s = seconds_of(time)
    return Arrival(at_s, num_prompt, num_new, own_blocks(number, num_prompt))


def _tokens(row: Mapping[str, str | None], name: str) -> int:
    text = row[name] or ""
    if not text.strip().isdigit() or int(text) < 1:
        raise ValueError(f"{name} must be a number of tokens from 1 on, found {text or 'nothing'}")
    return int(text)
