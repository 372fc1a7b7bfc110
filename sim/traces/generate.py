"""Requests drawn from a SPEC's phases."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count, islice, takewhile

from sim.traces.arrival import BLOCK_TOKENS, Arrival
from sim.traces.conversation import conversations
from sim.traces.draws import arrival_times, drawn_length
from sim.traces.spec import CONVERSATION, RATE, Phase


def generate(
    phases: Sequence[Phase], per_s: float | None, num_requests: int, seed: int = 1
) -> list[Arrival]:
    """The requests of all phases one behind the other, at most `num_requests`, by time.

    `per_s` is the rate of phases without one of their own, in requests a second; equal arguments
    give equal requests. Raises ValueError where a phase has no rate.
    """
    draw, content = random.Random(seed), count(1)
    arrivals: list[Arrival] = []
    begin_s = 0.0
    for phase in phases:
        rate = phase.options.get(RATE, per_s)
        if rate is None:
            raise ValueError(f"{phase.kind}: how many requests a second?")
        drawn = _of(phase, rate, draw, content)
        if phase.seconds is not None:
            drawn = _before(phase.seconds, drawn)
        left = num_requests - len(arrivals)
        arrivals += [each.later(begin_s) for each in islice(drawn, left)]
        if phase.seconds is None or len(arrivals) >= num_requests:
            break
        begin_s += phase.seconds
    return arrivals


def poisson(
    prompt: int, answer: int, per_s: float, num_requests: int, seed: int = 1, sigma: float = 0.4
) -> list[Arrival]:
    """Poisson arrivals of log-normal lengths, which share nothing; means in tokens."""
    phase = Phase("poisson", {"sigma": sigma}, (prompt, answer))
    return generate([phase], per_s, num_requests, seed)


def _before(end_s: float, arrivals: Iterator[Arrival]) -> Iterator[Arrival]:
    return takewhile(lambda each: each.at_s < end_s, arrivals)


def _of(
    phase: Phase, per_s: float, draw: random.Random, content: Iterator[int]
) -> Iterator[Arrival]:
    """Requests by time from 0 on, without end."""
    if phase.kind == CONVERSATION:
        return conversations(phase.options, per_s, draw, content)
    return _single(phase, per_s, draw, content)


def _single(
    phase: Phase, per_s: float, draw: random.Random, content: Iterator[int]
) -> Iterator[Arrival]:
    """Requests that share nothing."""
    assert phase.lengths is not None
    prompt, answer = phase.lengths
    sigma = phase.options["sigma"]
    for at_s in arrival_times(phase.kind, phase.options, per_s, draw):
        num_prompt, num_new = (drawn_length(draw, mean, sigma) for mean in (prompt, answer))
        blocks = tuple(islice(content, -(-num_prompt // BLOCK_TOKENS)))
        yield Arrival(at_s, num_prompt, num_new, blocks)
