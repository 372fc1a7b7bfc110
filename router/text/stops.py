"""Stop strings: found across token boundaries, never shown, and little text held back for them."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text through until a stop string is complete.

    The result does not depend on how the text is cut into pieces: the stop that is complete first
    wins, and of two complete at once the longer. With `include` the stop itself is shown, too.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self.include = include
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.matched: str | None = None

    def __bool__(self) -> bool:
        """Whether there is any stop string."""
        return bool(self._stops)

    def push(self, text: str) -> str:
        """Text that can be shown now. After a match (`matched` is set) there is no more."""
        if not self._stops:
            return text
        if self.matched is not None:
            return ""
        pending = self._held + text
        found = self._first_match(pending)
        if found is not None:
            self._held = ""
            start, self.matched = found
            return pending[: start + len(self.matched)] if self.include else pending[:start]
        cut = len(pending) - self._num_to_hold(pending)
        self._held = pending[cut:]
        return pending[:cut]

    def flush(self) -> str:
        """What was held back: the text has ended, so it was no stop."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, pending: str) -> tuple[int, str] | None:
        """(start, stop) of the match with the least end."""
        best: tuple[int, int, str] | None = None
        for stop in self._stops:
            start = pending.find(stop)
            if start >= 0:
                match = (start + len(stop), start, stop)
                best = match if best is None else min(best, match)
        return None if best is None else best[1:]

    def _num_to_hold(self, pending: str) -> int:
        """Length of the longest tail that begins a stop."""
        first = max(0, len(pending) - self._longest + 1)
        for start in range(first, len(pending)):
            if any(stop.startswith(pending[start:]) for stop in self._stops):
                return len(pending) - start
        return 0
