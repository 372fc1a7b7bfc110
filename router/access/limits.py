"""Limits of one key: token buckets for rates, and a count of concurrent requests."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from router.access.keys import KeyLimits
from router.errors import OverQuota

RETRY_CONCURRENCY_S = 1.0
"""Suggested retry time, since it is unknown when a request of the key will end."""
NUM_CELLS = 3
"""Number of cells in a bucket."""
LEVEL, AT_S, PER_MINUTE = range(NUM_CELLS)


class Cells(Protocol):
    """Mutable numbers, initially zero, that may be shared with other processes."""

    def __getitem__(self, index: int, /) -> float: ...
    def __setitem__(self, index: int, value: float, /) -> None: ...


class KeyUsage(Protocol):
    """Usage of one key, by one router or by several that share it."""

    requests: Cells
    tokens: Cells

    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock on the usage."""

    def add_running(self, difference: int) -> None:
        """Add to this router's number of running requests."""

    def num_running(self, limit: int) -> int:
        """Running requests of all routers; may be too high only while it is below `limit`."""


class LocalKeyUsage:
    """Usage of one key at this router alone."""

    def __init__(self) -> None:
        self.requests: Cells = [0.0] * NUM_CELLS
        self.tokens: Cells = [0.0] * NUM_CELLS
        self._num_running = 0

    def locked(self) -> AbstractContextManager[None]:
        return nullcontext()

    def add_running(self, difference: int) -> None:
        self._num_running += difference

    def num_running(self, limit: int) -> int:
        return self._num_running


class Bucket:
    """A token bucket: holds one minute's worth and refills evenly. Debt is allowed, and refills
    first.

    When the rate changes, the level is scaled.
    """

    def __init__(self, per_minute: float, cells: Cells, now_s: float) -> None:
        self.per_minute = per_minute
        self._cells = cells
        if not cells[PER_MINUTE]:
            cells[LEVEL], cells[AT_S], cells[PER_MINUTE] = per_minute, now_s, per_minute

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until `amount` is available, or the whole bucket for a larger amount."""
        missing = min(amount, self.per_minute) - self._refilled(now_s)
        return max(0.0, missing * 60 / self.per_minute)

    def take(self, amount: float, now_s: float) -> None:
        self._cells[LEVEL] = min(self.per_minute, self._refilled(now_s) - amount)

    def _refilled(self, now_s: float) -> float:
        """The level after refilling until now."""
        cells, most = self._cells, self.per_minute
        if cells[PER_MINUTE] != most:
            cells[LEVEL], cells[PER_MINUTE] = cells[LEVEL] * most / cells[PER_MINUTE], most
        gained = max(0.0, now_s - cells[AT_S]) * most / 60
        cells[LEVEL], cells[AT_S] = min(most, cells[LEVEL] + gained), max(cells[AT_S], now_s)
        return cells[LEVEL]


class Meter:
    """Counts the usage of one key, and enforces its limits."""

    def __init__(self, limits: KeyLimits, now_s: float, usage: KeyUsage | None = None) -> None:
        self._usage = usage or LocalKeyUsage()
        self._limits = KeyLimits()
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self.set_limits(limits, now_s)

    def set_limits(self, limits: KeyLimits, now_s: float) -> None:
        """Change the limits; past usage stays counted."""
        if limits == self._limits:
            return
        self._limits = limits
        with self._usage.locked():
            self._requests = _bucket(limits.requests_per_minute, self._usage.requests, now_s)
            self._tokens = _bucket(limits.tokens_per_minute, self._usage.tokens, now_s)

    def enter(self, now_s: float) -> None:
        """Count a new request, until `leave`. Raises OverQuota, and then counts nothing."""
        with self._usage.locked():
            self._check_running()
            if self._tokens is not None:
                _check(self._tokens, 0, now_s, "tokens")
            if self._requests is not None:
                _check(self._requests, 1, now_s, "requests")
                self._requests.take(1, now_s)
            self._usage.add_running(1)

    def leave(self) -> None:
        self._usage.add_running(-1)

    def take_prompt(self, num_tokens: int, now_s: float) -> None:
        """Charge a prompt. Raises OverQuota if the bucket has fewer tokens."""
        if self._tokens is not None:
            with self._usage.locked():
                _check(self._tokens, num_tokens, now_s, "tokens")
                self._tokens.take(num_tokens, now_s)

    def take_output(self, num_tokens: int, now_s: float) -> None:
        """Charge generated tokens, possibly into debt: the answer continues, the next request
        waits."""
        if self._tokens is not None:
            with self._usage.locked():
                self._tokens.take(num_tokens, now_s)

    def give_back(self, num_tokens: int, now_s: float) -> None:
        """Refund a prompt that was not served."""
        self.take_output(-num_tokens, now_s)

    def _check_running(self) -> None:
        limit = self._limits.concurrency
        if limit is None:
            return
        num_running = self._usage.num_running(limit)
        if num_running >= limit:
            text = f"{num_running} requests of this key are running, the limit is {limit}"
            raise OverQuota(text, RETRY_CONCURRENCY_S, reason="quota_concurrency")


def _bucket(per_minute: float | None, cells: Cells, now_s: float) -> Bucket | None:
    return None if per_minute is None else Bucket(per_minute, cells, now_s)


def _check(bucket: Bucket, amount: float, now_s: float, what: str) -> None:
    wait_s = bucket.wait_s(amount, now_s)
    if wait_s > 0:
        limit = f"this key is limited to {bucket.per_minute:g} {what} per minute"
        text = f"{limit}: retry in {wait_s:.1f} s"
        raise OverQuota(text, wait_s, reason=f"quota_{what}")
