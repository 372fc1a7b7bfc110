"""The base of scanners whose calls are a JSON list behind a mark."""

from __future__ import annotations

from abc import abstractmethod

from router.answers.tool_calls.scanner import CallScanner, JsonCall, MakeId


class CallListScanner(CallScanner):
    """Reads the calls of a list; `_mark` is the text that comes before the next call."""

    def __init__(self, make_id: MakeId, opening: str) -> None:
        super().__init__(make_id)
        self._opening = opening
        self._mark = opening
        self._call = JsonCall(self, opening)

    @abstractmethod
    def opened(self, done: bool) -> bool:
        """The step after the opening mark."""

    @abstractmethod
    def after_list(self, done: bool) -> bool:
        """The step after the list's end."""

    def outside(self, done: bool) -> bool:
        mark = self.emit_until((self._opening,), done)
        if mark is None:
            return False
        self._mark = mark
        return self.then(self.opened)

    def expect_call(self) -> bool:
        """Read a call next."""
        self._call = JsonCall(self, self._mark)
        return self.then(self._inside)

    def _inside(self, done: bool) -> bool:
        return self.read_call(self._call, done, self._listed)

    def _listed(self, done: bool) -> bool:
        """After a call of the list: another one, or the list's end."""
        if not self.skip_whitespace():
            return False
        if self.pending[0] == ",":
            self.drop(1)
            self._mark = ","
            return self.expect_call()
        if self.pending[0] == "]":
            self.drop(1)
        return self.then(self.after_list)
