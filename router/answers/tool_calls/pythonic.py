"""Calls as a Python list, [f(a=1), g()]: Llama 3.2's small models, Llama 4, and others."""

from __future__ import annotations

import ast
import json

from router.answers.tool_calls.scanner import CallScanner, MakeId, random_call_id

Calls = list[tuple[str, str]]
"""Pairs of a name and its arguments as JSON."""


class PythonicScanner(CallScanner):
    """The whole answer is a list of calls, or none of it; calls are emitted when the list is
    complete."""

    def __init__(self, known: frozenset[str], make_id: MakeId = random_call_id) -> None:
        super().__init__(make_id)
        self._known = known
        self._read = 0
        self._depth = 0
        self._quote: str | None = None
        self._escaped = False

    def outside(self, done: bool) -> bool:
        """Emit text at once that does not begin with a bracket."""
        text = self.pending.lstrip()
        if text.startswith("["):
            return self.then(self._inside)
        if text or done:
            return self.then(self._emitting)
        return False

    def _emitting(self, done: bool) -> bool:
        self.emit_pending()
        return False

    def _inside(self, done: bool) -> bool:
        while self._read < len(self.pending):
            self._track_nesting(self.pending[self._read])
            self._read += 1
            if self._depth == 0 and self.pending[self._read - 1] == "]":
                return self._end_list()
        return done and self.then(self._emitting)

    def _track_nesting(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._quote is not None:
            self._escaped = character == "\\"
            self._quote = None if character == self._quote else self._quote
        elif character in "'\"":
            self._quote = character
        elif character in "[({":
            self._depth += 1
        elif character in "])}":
            self._depth -= 1

    def _end_list(self) -> bool:
        calls = try_calls(self.pending[: self._read].lstrip(), self._known)
        if calls is None:
            return self.then(self._emitting)
        for name, arguments in calls:
            self.begin_call(name, arguments)
        self.drop(self._read)
        return self.then(self._after_call)

    def _after_call(self, done: bool) -> bool:
        return self.skip_whitespace() and self.then(self._emitting)


def try_calls(source: str, known: frozenset[str]) -> Calls | None:
    """The calls; None unless the source is a list of calls of known tools with literal keyword
    arguments."""
    try:
        parsed = ast.parse(source, mode="eval").body
        if not isinstance(parsed, ast.List) or not parsed.elts:
            return None
        return [_call(each, known) for each in parsed.elts]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _call(node: ast.expr, known: frozenset[str]) -> tuple[str, str]:
    """Name and arguments of one call. Raises ValueError."""
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("no call by keywords")
    name = ast.unparse(node.func)
    if name not in known:
        raise ValueError("no known tool")
    arguments = {each.arg: ast.literal_eval(each.value) for each in node.keywords}
    return name, json.dumps(arguments, ensure_ascii=False, allow_nan=False)
