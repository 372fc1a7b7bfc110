"""Stop strings: found across token boundaries, never shown, and little text held back for them."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text through until a stop string is complete.

    The result does not depend on how the text is cut into pieces: the stop that is complete first
    wins, and of two complete at once the longer. With `include` the stop itself is shown, too.
    Hidden text (the names of special tokens) is matched like any other, and not shown.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self.include = include
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self._hidden: list[tuple[int, int]] = []
        """Ranges of what is held that are never shown."""
        self.matched: str | None = None

    def __bool__(self) -> bool:
        """Whether there is any stop string."""
        return bool(self._stops)

    def push(self, text: str, *, hidden: bool = False) -> str:
        """Text that can be shown now. After a match (`matched` is set) there is no more."""
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
        """What was held back: the text has ended, so it was no stop."""
        return self._release(self._held, len(self._held))

    def _release(self, pending: str, end: int) -> str:
        """What is shown of pending[:end]; nothing is held after that."""
        shown, begin = [], 0
        for start, stop in self._hidden:
            shown.append(pending[begin : min(start, end)])
            begin = min(stop, end)
        shown.append(pending[begin:end])
        self._hidden = [(max(0, a - end), b - end) for a, b in self._hidden if b > end]
        self._held = ""
        return "".join(shown)

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
