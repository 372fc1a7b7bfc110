"""Recorded and made-up traffic: when requests come, what they share, how long their answers are."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path

BLOCK_TOKENS = 512
"""Tokens for each block id of the Mooncake traces; equal ids are equal content."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request of a trace, which arrives at `at_s` and generates `num_new` tokens.

    `blocks` stand for the prompt's content, a number for each BLOCK_TOKENS tokens.
    """

    at_s: float
    num_prompt: int
    num_new: int
    blocks: tuple[int, ...]
    tenant: str = ""

    def later(self, seconds: float) -> Arrival:
        return replace(self, at_s=self.at_s + seconds)

    def tokens(self) -> list[int]:
        tokens: list[int] = []
        for block in self.blocks:
            tokens += [block] * BLOCK_TOKENS
        return tokens[: self.num_prompt]


def mooncake(file: Path, count: int) -> list[Arrival]:
    """The first `count` requests of a Mooncake trace, oldest first.

    Its times are rounded to 3 s; requests of one time are spread over the 3 s.
    """
    with file.open() as lines:
        rows = [json.loads(line) for line in islice(lines, count)]
    draw = random.Random(1)
    arrivals = [
        Arrival(
            at_s=row["timestamp"] / 1000 + draw.random() * 3,
            num_prompt=row["input_length"],
            num_new=max(1, row["output_length"]),
            blocks=tuple(row["hash_ids"]),
        )
        for row in rows
    ]
    return sorted(arrivals, key=lambda arrival: arrival.at_s)


def azure(file: Path, count: int) -> list[Arrival]:
    """The first `count` requests of an Azure trace, whose prompts are taken to share nothing."""
    with file.open(newline="") as lines:
        rows = list(islice(csv.DictReader(lines), count))
    begin = _azure_time(rows[0]["TIMESTAMP"])
    return [
        Arrival(
            at_s=_azure_time(row["TIMESTAMP"]) - begin,
            num_prompt=max(1, int(row["ContextTokens"])),
            num_new=max(1, int(row["GeneratedTokens"])),
            blocks=tuple(_own_blocks(number, int(row["ContextTokens"]))),
        )
        for number, row in enumerate(rows)
    ]


def synthetic(count: int, seed: int = 1, tenant: str = "") -> list[Arrival]:
    """Conversations of a few turns, each turn behind the one before, begun at random times."""
    draw = random.Random(seed)
    arrivals: list[Arrival] = []
    begin, next_block = 0.0, seed << 24
    while len(arrivals) < count:
        begin += draw.expovariate(1.0)
        at_s, blocks = begin, [0]
        for _ in range(draw.choice((1, 1, 2, 3, 5))):
            num_more = 1 + int(draw.paretovariate(1.2))
            blocks += range(next_block, next_block + min(num_more, 60))
            next_block += 60
            num_prompt = len(blocks) * BLOCK_TOKENS - draw.randrange(BLOCK_TOKENS)
            num_new = max(1, min(1500, int(draw.lognormvariate(5.2, 0.8))))
            arrivals.append(Arrival(at_s, num_prompt, num_new, tuple(blocks), tenant))
            at_s += 5 + draw.expovariate(1 / 20)
    return sorted(arrivals, key=lambda arrival: arrival.at_s)[:count]


def at_rate(arrivals: list[Arrival], per_s: float) -> list[Arrival]:
    """The requests sped up or slowed down to `per_s` arrivals per second on average."""
    span_s = arrivals[-1].at_s - arrivals[0].at_s
    factor = (len(arrivals) / span_s) / per_s
    begin = arrivals[0].at_s
    return [replace(each, at_s=(each.at_s - begin) * factor) for each in arrivals]


def _own_blocks(number: int, num_tokens: int) -> Iterator[int]:
    first = 1 + number * 64
    return iter(range(first, first + max(1, -(-num_tokens // BLOCK_TOKENS))))


def _azure_time(text: str) -> float:
    """Seconds; the trace has a digit more than datetime reads."""
    return datetime.fromisoformat(text[:26]).timestamp()
