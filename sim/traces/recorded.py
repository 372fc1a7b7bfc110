"""Recorded traffic: the traces of Mooncake and Azure.

Mooncake: github.com/kvcache-ai/Mooncake, FAST25-release. Azure:
github.com/Azure/AzurePublicDataset, AzureLLMInferenceTrace (Splitwise, ISCA 2024).
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sim.traces.arrival import Arrival, own_blocks
from sim.traces.bad_trace import BadTrace

MOONCAKE_KEYS = ("timestamp", "input_length", "output_length", "hash_ids")
AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
ROUNDED_S = 3.0
"""The times of Mooncake's conversations are rounded to so much."""


def mooncake(file: Path, count: int) -> list[Arrival]:
    """The first `count` requests of a Mooncake trace, oldest first; raises BadTrace.

    Its times are rounded to 3 s; requests of one time are spread over the 3 s.
    """
    draw = random.Random(1)
    arrivals = []
    with file.open() as lines:
        for number, line in enumerate(islice(lines, count), 1):
            try:
                arrivals.append(_mooncake_arrival(json.loads(line), draw))
            except (KeyError, TypeError, ValueError) as error:
                wanted = f"wanted a JSON object of {', '.join(MOONCAKE_KEYS)}"
                raise BadTrace(f"{file}, line {number}: {wanted} ({error!r})") from error
    return sorted(arrivals, key=lambda arrival: arrival.at_s)


def azure(file: Path, count: int) -> list[Arrival]:
    """The first `count` requests of an Azure trace, whose prompts are taken to share nothing.

    Raises BadTrace.
    """
    arrivals: list[Arrival] = []
    with file.open(newline="") as lines:
        for number, row in enumerate(islice(csv.DictReader(lines), count)):
            try:
                arrivals.append(_azure_arrival(row, number))
            except (KeyError, TypeError, ValueError) as error:
                wanted = f"wanted {', '.join(AZURE_COLUMNS)}"
                raise BadTrace(f"{file}, line {number + 2}: {wanted} ({error})") from error
    begin_s = min((each.at_s for each in arrivals), default=0.0)
    return [each.later(-begin_s) for each in arrivals]


def seconds_of(text: str) -> float:
    """A time in seconds, or a date with a time; Azure's has a digit more than datetime reads.

    Raises ValueError.
    """
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text[:26]).timestamp()


def _mooncake_arrival(row: dict[str, Any], draw: random.Random) -> Arrival:
    return Arrival(
        at_s=row["timestamp"] / 1000 + draw.random() * ROUNDED_S,
        num_prompt=max(1, int(row["input_length"])),
        num_new=max(1, int(row["output_length"])),
        blocks=tuple(map(int, row["hash_ids"])),
    )


def _azure_arrival(row: Mapping[str, str], number: int) -> Arrival:
    num_prompt = max(1, int(row["ContextTokens"]))
    return Arrival(
        at_s=seconds_of(row["TIMESTAMP"]),
        num_prompt=num_prompt,
        num_new=max(1, int(row["GeneratedTokens"])),
        blocks=own_blocks(number, num_prompt),
    )
