"""Stop strings: matched across token boundaries, never shown, with little text held back."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text through until a stop string is complete.

    The result does not depend on how the text is split into chunks: the stop string that is
    complete first wins, and of two complete at once the longer. With `include` the stop string is
    shown, too. Hidden text (the names of special tokens) is matched like any other, but not shown.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self.include = include
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self._hidden: list[tuple[int, int]] = []
        """Ranges of the held text that are never shown."""
        self.matched: str | None = None

    def __bool__(self) -> bool:
        """Whether there are stop strings."""
        return bool(self._stops)

    def push(self, text: str, *, hidden: bool = False) -> str:
        """The text that can be shown now; empty after a match (`matched` is set)."""
        if not self._stops:
            return "" if hidden else text
        if self.matched is not None:
            return ""
        pending = self._held + text
        if hidden:
            self._hidden.append((len(self._held), len(pending)))
        found = self._first_match(pending)
        if found is not None:
            start, self.matched = found
            return self._release(pending, start) + (self.matched if self.include else "")
        cut = len(pending) - self._num_to_hold(pending)
        shown = self._release(pending, cut)
        self._held = pending[cut:]
        return shown

    def flush(self) -> str:
        """The text held back so far, at the end of the answer."""
        return self._release(self._held, len(self._held))

    def _release(self, pending: str, end: int) -> str:
        """The visible part of pending[:end]; clears the held text."""
        shown, begin = [], 0
        for start, stop in self._hidden:
            shown.append(pending[begin : min(start, end)])
            begin = min(stop, end)
        shown.append(pending[begin:end])
        self._hidden = [(max(0, a - end), b - end) for a, b in self._hidden if b > end]
        self._held = ""
        return "".join(shown)

    def _first_match(self, pending: str) -> tuple[int, str] | None:
        """(start, stop string) of the match that ends first."""
        best: tuple[int, int, str] | None = None
        for stop in self._stops:
            start = pending.find(stop)
            if start >= 0:
                match = (start + len(stop), start, stop)
                best = match if best is None else min(best, match)
        return None if best is None else best[1:]

    def _num_to_hold(self, pending: str) -> int:
        """Length of the longest suffix that begins a stop string."""
        first = max(0, len(pending) - self._longest + 1)
        for start in range(first, len(pending)):
            if any(stop.startswith(pending[start:]) for stop in self._stops):
                return len(pending) - start
        return 0
