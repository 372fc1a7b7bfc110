"""DeepSeek's formats: V3 and R1 put the arguments into a JSON fence, V3.1 directly after the
name."""

from __future__ import annotations

from router.answers.tool_calls.call_reader import SPACE, JsonValueReader
from router.answers.tool_calls.scanner import CallScanner, MakeId, random_call_id

LIST_BEGIN, LIST_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_BEGIN, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
MARKS = (LIST_BEGIN, LIST_END, CALL_BEGIN, CALL_END, SEPARATOR)
KIND = "function"
MAX_HEAD = 512
"""Maximum number of characters between a call's mark and its arguments."""


class DeepSeekScanner(CallScanner):
    """Both formats: a call that begins with its kind has a fence.

        <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME ⏎ ```json ⏎ {…} ⏎ ```<｜tool▁call▁end｜>
        <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{…}<｜tool▁call▁end｜>

    Any number of calls, between the marks of a list or without them.
    """

    def __init__(self, make_id: MakeId = random_call_id) -> None:
        super().__init__(make_id)
        self._mark = ""
        self._value = JsonValueReader()

    def outside(self, done: bool) -> bool:
        mark = self.emit_until((LIST_BEGIN, CALL_BEGIN), done)
        if mark is None:
            return False
        self._mark = mark
        return self.then(self._opened)

    def _opened(self, done: bool) -> bool:
        """After a mark: expect a call's head, or the mark of a call."""
        rest = self.pending.lstrip(SPACE)
        if CALL_BEGIN not in self._mark:
            if rest.startswith(CALL_BEGIN):
                taken = len(self.pending) - len(rest) + len(CALL_BEGIN)
                self._mark += self.pending[:taken]
                self.drop(taken)
            elif CALL_BEGIN.startswith(rest) and not done:
                return False
            else:
                return self._no_call()
        return self.then(self._head)

    def _head(self, done: bool) -> bool:
        """The name, and everything up to the arguments."""
        start = self.pending.find("{")
        if start < 0 and len(self.pending) <= MAX_HEAD and not done:
            return False
        head = self.pending[: max(start, 0)]
        first, separator, second = head.partition(SEPARATOR)
        name = second.partition("```")[0] if first.strip() == KIND else first
        if not (0 <= start <= MAX_HEAD and separator and name.strip()):
            return self._no_call()
        self.begin_call(name.strip())
        self.drop(start)
        self._value = JsonValueReader()
        return self.then(self._arguments)

    def _no_call(self) -> bool:
        self.emit_text(self._mark)
        return self.then(self.outside)

    def _arguments(self, done: bool) -> bool:
        return self.emit_value(self._value) and self.then(self._fenced)

    def _fenced(self, done: bool) -> bool:
        """After the arguments: the end of the fence, and of the call."""
        return self.skip_one_of(("```", CALL_END), done) and self.then(self._after_call)

    def _after_call(self, done: bool) -> bool:
        """Another call, or the end of the list."""
        if not self.skip_one_of((CALL_END, LIST_END), done):
            return False
        if self.pending.startswith(CALL_BEGIN):
            self._mark = ""
            return self.then(self._opened)
        if CALL_BEGIN.startswith(self.pending) and not done:
            return False
        return self.then(self.outside)
