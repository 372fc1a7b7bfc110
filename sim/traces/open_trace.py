"""The requests that a user names: a file, or a SPEC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sim.traces.arrival import BLOCK_TOKENS, Arrival, at_rate
from sim.traces.bad_trace import BadTrace, TraceError, did_you_mean
from sim.traces.generate import generate
from sim.traces.spec import CONVERSATION, KINDS, MIX, RATE, is_spec, parse
from sim.traces.trace_file import read_trace

FINE_BLOCK_TOKENS = 64
"""Turns of a conversation share text that ends anywhere: coarse blocks would cache little of it."""
MOST_REQUESTS = 1000
"""Requests of a trace where nothing says how many."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests by time, at least one. `block_tokens` is the size of KV blocks that does justice to
    what their prompts share."""

    name: str
    arrivals: list[Arrival]
    block_tokens: int = BLOCK_TOKENS


def open_trace(
    source: str,
    per_s: float | None = None,
    count: int | None = None,
    skip: int = 0,
    seed: int = 1,
) -> Trace:
    """The requests of a file or a SPEC.

    Args:
        source: The file's path, or a SPEC.
        per_s: Requests a second: a file's are sped up or slowed down. None keeps a file's own
            times; a SPEC needs it for phases without a rate of their own.
        count: Most requests; None takes MOST_REQUESTS, and a mix that ends by itself whole.
        skip: Leave out so many requests of a file first.
        seed: Of what is drawn.

    Raises BadTrace, BadSpec and TraceError.
    """
    file = Path(source)
    if file.is_file():
        arrivals = read_trace(file, count or MOST_REQUESTS, skip, seed)
        return Trace(file.name, arrivals if per_s is None else at_rate(arrivals, per_s))
    if not is_spec(source):
        meant = did_you_mean(source, [*KINDS, MIX])
        raise BadTrace(f"{source} is neither a file nor a SPEC such as poisson:2048/128{meant}")
    return _described(source, per_s, count, seed)


def _described(spec: str, per_s: float | None, count: int | None, seed: int) -> Trace:
    phases = parse(spec)
    if per_s is None and not all(RATE in phase.options for phase in phases):
        raise TraceError(f"{spec}: how many requests a second? (--rate, or rate= in the SPEC)")
    if count is None and phases[-1].seconds is not None:
        count = 1 << 60
    arrivals = generate(phases, per_s, MOST_REQUESTS if count is None else count, seed)
    if not arrivals:
        raise TraceError(f"{spec}: no request comes in its time at this rate")
    shares = any(phase.kind == CONVERSATION for phase in phases)
    return Trace(spec, arrivals, FINE_BLOCK_TOKENS if shares else BLOCK_TOKENS)
