"""Requests for the simulation: recorded ones, and those that a short text describes.

`open_trace` takes both, a file (`trace_file.py`) or a SPEC such as "poisson:2048/128" (`spec.py`).
"""

from __future__ import annotations

from sim.traces.arrival import BLOCK_TOKENS, Arrival, at_rate
from sim.traces.made_up import synthetic
from sim.traces.open_trace import Trace, open_trace
from sim.traces.recorded import azure, mooncake

__all__ = [
    "BLOCK_TOKENS",
    "Arrival",
    "Trace",
    "at_rate",
    "azure",
    "mooncake",
    "open_trace",
    "synthetic",
]
