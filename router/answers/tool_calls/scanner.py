"""The base of all scanners: text outside of calls, marks that begin a call, and calls as deltas."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from router.answers.answer import Parsed
from router.answers.tool_calls.call_reader import SPACE, JsonCallReader, JsonValueReader
from router.requests.request import ToolCallDelta

MakeId = Callable[[], str]


def random_call_id() -> str:
    """A random id in OpenAI's format."""
    return f"call_{secrets.token_hex(12)}"


class CallScanner(ABC):
    """An incremental parser; its result does not depend on how the text is split into chunks.

    A step examines `pending`, removes from its front what it can decide, and returns whether
    another step may follow at once. Whitespace around a call is dropped.
    """

    def __init__(self, make_id: MakeId = random_call_id) -> None:
        self.pending = ""
        self.num_calls = 0
        self._make_id = make_id
        self._step: Callable[[bool], bool] = self.outside
        self._text: list[str] = []
        self._deltas: list[ToolCallDelta] = []

    def push(self, text: str, *, done: bool) -> Parsed:
        """The newly parsed part of the answer; with `done` all that remains."""
        self.pending += text
        self._text, self._deltas = [], []
        while self._step(done):
            pass
        return Parsed(text="".join(self._text), tool_calls=tuple(self._deltas))

    @abstractmethod
    def outside(self, done: bool) -> bool:
        """The initial step, outside of calls."""

    def then(self, step: Callable[[bool], bool]) -> bool:
        """Set the next step."""
        self._step = step
        return True

    def drop(self, count: int) -> None:
        self.pending = self.pending[count:]

    def emit_text(self, text: str) -> None:
        if text:
            self._text.append(text)

    def emit_pending(self, count: int | None = None) -> None:
        """Emit the first `count` pending characters as text, or all."""
        count = len(self.pending) if count is None else count
        self.emit_text(self.pending[:count])
        self.drop(count)

    def begin_call(self, name: str, arguments: str = "") -> None:
        self._deltas.append(
            ToolCallDelta(index=self.num_calls, id=self._make_id(), name=name, arguments=arguments)
        )
        self.num_calls += 1

    def emit_arguments(self, arguments: str) -> None:
        """Emit more arguments of the current call."""
        if arguments:
            self._deltas.append(ToolCallDelta(index=self.num_calls - 1, arguments=arguments))

    def emit_until(self, marks: Sequence[str], done: bool) -> str | None:
        """Emit text up to the first of the marks; remove and return the mark, with whitespace
        before it.

        Text that may begin a mark is held back, with whitespace before it, until that is decided.
        """
        found = {mark: self.pending.find(mark) for mark in marks}
        mark = min(
            (each for each in marks if found[each] >= 0), key=found.__getitem__, default=None
        )
        if mark is None:
            held = 0 if done else max(num_held_back(self.pending, each) for each in marks)
            self.emit_pending(len(self.pending) - held)
            return None
        self.emit_pending(len(self.pending[: found[mark]].rstrip(SPACE)))
        taken = self.pending[: self.pending.find(mark) + len(mark)]
        self.drop(len(taken))
        return taken

    def read_call(self, call: JsonCall, done: bool, step: Callable[[bool], bool]) -> bool:
        """Read more of a call; then continue with `step`, or outside if it was not a call."""
        complete = call.read(done)
        return complete is not None and self.then(step if complete else self.outside)

    def emit_value(self, value: JsonValueReader) -> bool:
        """Emit arguments up to the end of their value; True once it is complete."""
        taken = 0
        while taken < len(self.pending) and not value.done:
            value.read(self.pending[taken])
            taken += 1
        self.emit_arguments(self.pending[:taken])
        self.drop(taken)
        return value.done

    def skip_one_of(self, marks: Sequence[str], done: bool) -> bool:
        """Skip whitespace and these marks, in any order; False if more text is needed to decide."""
        while self.skip_whitespace():
            mark = next((each for each in marks if self.pending.startswith(each)), None)
            if mark is None:
                return done or not any(each.startswith(self.pending) for each in marks)
            self.drop(len(mark))
        return False

    def skip_whitespace(self) -> bool:
        """Skip whitespace; True if text remains."""
        self.pending = self.pending.lstrip(SPACE)
        return bool(self.pending)


class JsonCall:
    """One JSON call in a scanner; `mark` is the text before it."""

    def __init__(
        self, scanner: CallScanner, mark: str, known: frozenset[str] | None = None
    ) -> None:
        self._scanner = scanner
        self._reader = JsonCallReader(known)
        self._mark = mark
        self._begun = False

    def read(self, done: bool) -> bool | None:
        """True when the call is complete, False if it is not a call, None if more text is needed.

        Text that turns out not to be a call is emitted as text.
        """
        scanner, reader = self._scanner, self._reader
        scanner.drop(reader.feed(scanner.pending))
        if reader.name is not None:
            self._emit(reader.name)
        if reader.done and self._begun:
            return True
        if not (reader.done or reader.failed or done):
            return None
        if not self._begun:
            scanner.emit_text(self._mark + reader.raw)
        return False

    def _emit(self, name: str) -> None:
        arguments = self._reader.take_arguments()
        if self._begun:
            self._scanner.emit_arguments(arguments)
        else:
            self._scanner.begin_call(name, arguments)
            self._begun = True


def num_held_back(text: str, mark: str) -> int:
    """Length of the longest suffix that may begin a mark, with the whitespace before it."""
    longest = next(
        (
            size
            for size in range(min(len(mark) - 1, len(text)), 0, -1)
            if text.endswith(mark[:size])
        ),
        0,
    )
    rest = text[: len(text) - longest]
    return longest + len(rest) - len(rest.rstrip(SPACE))
