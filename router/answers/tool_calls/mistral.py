"""Mistral's formats: [TOOL_CALLS] and a JSON list, or since 2025 [TOOL_CALLS]name[ARGS]{…}."""

from __future__ import annotations

import re
import secrets
import string

from router.answers.tool_calls.call_list import CallListScanner
from router.answers.tool_calls.call_reader import SPACE, JsonValueReader
from router.answers.tool_calls.scanner import MakeId

OPENING = "[TOOL_CALLS]"
ARGUMENTS = "[ARGS]"
CALL_ID = "[CALL_ID]"
NAME = re.compile(r"[\w.-]+")
MAX_NAME = 128
"""Maximum number of characters from the mark to the arguments."""


def random_mistral_id() -> str:
    """An id as Mistral's chat templates require it: nine letters and digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


class MistralScanner(CallListScanner):
    """Both formats, distinguished by the text after the mark."""

    def __init__(self, make_id: MakeId = random_mistral_id) -> None:
        super().__init__(make_id, OPENING)
        self._value = JsonValueReader()

    def opened(self, done: bool) -> bool:
        num_blanks = len(self.pending) - len(self.pending.lstrip(SPACE))
        self._mark += self.pending[:num_blanks]
        self.drop(num_blanks)
        if not self.pending:
            if done:
                self.emit_text(self._mark)
            return False
        if self.pending[0] == "[":
            self.drop(1)
            self._mark += "["
            return self.expect_call()
        return self.expect_call() if self.pending[0] == "{" else self.then(self._named)

    def _named(self, done: bool) -> bool:
        """The name, up to the arguments after [ARGS] or directly after the name."""
        start = self.pending.find("{")
        if start < 0 and len(self.pending) <= MAX_NAME and not done:
            return False
        head = self.pending[: max(start, 0)]
        name = head.partition(ARGUMENTS)[0].partition(CALL_ID)[0].strip()
        if not (0 <= start <= MAX_NAME and NAME.fullmatch(name)):
            self.emit_text(self._mark)
            return self.then(self.outside)
        self.begin_call(name)
        self.drop(start)
        self._value = JsonValueReader()
        return self.then(self._arguments)

    def _arguments(self, done: bool) -> bool:
        return self.emit_value(self._value) and self.then(self.after_list)

    def after_list(self, done: bool) -> bool:
        return self.skip_whitespace() and self.then(self.outside)
