"""Reports the loading of weights, with a line for every quarter."""

from __future__ import annotations

from collections.abc import Callable

LARGE_BYTES = 1_000_000_000
"""Smaller weights load at once, and only their end is reported."""


class Quarters:
    """`tell(line)` is called for every quarter of large weights, and for the end of any; `loaded`
    may be called as often as one likes."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told = 0

    def loaded(self, num_bytes: int, total_bytes: int) -> None:
        """`num_bytes` of `total_bytes` have been loaded so far."""
        quarter = 4 * num_bytes // total_bytes if total_bytes else 0
        if quarter > self._told and (quarter == 4 or total_bytes >= LARGE_BYTES):
            self._told = quarter
            self._tell(f"weights {quarter * 25} % of {total_bytes / 1e6:.1f} MB loaded")
