"""What one key may use: rates, as buckets that refill, and requests under way."""

from __future__ import annotations

from router.access.keys import KeyLimits
from router.errors import OverQuota

RETRY_CONCURRENCY_S = 1.0
"""When a request of the same key ends, nobody knows: ask again soon."""


class Bucket:
    """Holds a minute's worth and refills evenly. It may run into debt, which has to refill too."""

    def __init__(self, per_minute: float, now_s: float) -> None:
        self.per_minute = per_minute
        self._level = per_minute
        self._at_s = now_s

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until `amount` is there, or, for one that the bucket never holds, all it can."""
        self._refill(now_s)
        missing = min(amount, self.per_minute) - self._level
        return max(0.0, missing * 60 / self.per_minute)

    def take(self, amount: float, now_s: float) -> None:
        self._refill(now_s)
        self._level = min(self.per_minute, self._level - amount)

    def _refill(self, now_s: float) -> None:
        gained = max(0.0, now_s - self._at_s) * self.per_minute / 60
        self._level = min(self.per_minute, self._level + gained)
        self._at_s = max(self._at_s, now_s)


class Meter:
    """Counts what one key uses. `set_limits` changes what it may."""

    def __init__(self, limits: KeyLimits, now_s: float) -> None:
        self._limits = KeyLimits()
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self._num_running = 0
        self.set_limits(limits, now_s)

    def set_limits(self, limits: KeyLimits, now_s: float) -> None:
        """A rate that is the same as before keeps its bucket."""
        if limits == self._limits:
            return
        self._limits = limits
        self._requests = _bucket(limits.requests_per_minute, self._requests, now_s)
        self._tokens = _bucket(limits.tokens_per_minute, self._tokens, now_s)

    def enter(self, now_s: float) -> None:
        """A request begins; `leave` ends it. Raises OverQuota; then there is nothing to leave."""
        limit = self._limits.concurrency
        if limit is not None and self._num_running >= limit:
            text = f"{self._num_running} requests of this key are under way, it may have {limit}"
            raise OverQuota(text, RETRY_CONCURRENCY_S)
        if self._tokens is not None:
            _check(self._tokens, 0, now_s, "tokens")
        if self._requests is not None:
            _check(self._requests, 1, now_s, "requests")
            self._requests.take(1, now_s)
        self._num_running += 1

    def leave(self) -> None:
        self._num_running -= 1

    def take_prompt(self, num_tokens: int, now_s: float) -> None:
        """Charges a prompt. Raises OverQuota while the bucket holds less than it has tokens."""
        if self._tokens is not None:
            _check(self._tokens, num_tokens, now_s, "tokens")
            self._tokens.take(num_tokens, now_s)

    def take_output(self, num_tokens: int, now_s: float) -> None:
        """Charges what was generated: an answer goes on to its end, the next request waits."""
        if self._tokens is not None:
            self._tokens.take(num_tokens, now_s)

    def give_back(self, num_tokens: int, now_s: float) -> None:
        """Of a prompt that was not served."""
        if self._tokens is not None:
            self._tokens.take(-num_tokens, now_s)


def _bucket(per_minute: float | None, former: Bucket | None, now_s: float) -> Bucket | None:
    if per_minute is None:
        return None
    if former is not None and former.per_minute == per_minute:
        return former
    return Bucket(per_minute, now_s)


def _check(bucket: Bucket, amount: float, now_s: float, what: str) -> None:
    wait_s = bucket.wait_s(amount, now_s)
    if wait_s > 0:
        limit = f"this key may use {bucket.per_minute:g} {what} a minute"
        raise OverQuota(f"{limit}: come back in {wait_s:.1f} s", wait_s)
