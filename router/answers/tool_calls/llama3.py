"""The format of Llama 3.1 to 3.3: the answer is a JSON object, possibly after <|python_tag|>."""

from __future__ import annotations

from router.answers.tool_calls.scanner import CallScanner, JsonCall, MakeId, random_call_id

PYTHON_TAG = "<|python_tag|>"


class Llama3Scanner(CallScanner):
    """Calls at the answer's beginning or after the tag, several of them separated by ";".

    Any answer may be JSON, so only an object with the name of a `known` tool is a call.
    """

    def __init__(self, known: frozenset[str], make_id: MakeId = random_call_id) -> None:
        super().__init__(make_id)
        self._known = known
        self._whitespace = ""
        self._call = JsonCall(self, "", known)
        self.then(self._beginning)

    def outside(self, done: bool) -> bool:
        mark = self.emit_until((PYTHON_TAG,), done)
        return mark is not None and self._expect(mark)

    def _beginning(self, done: bool) -> bool:
        """Skip whitespace, but keep it in case that no call follows."""
        text = self.pending.lstrip()
        self._whitespace += self.pending[: len(self.pending) - len(text)]
        self.pending = text
        if text.startswith("{"):
            return self._expect(self._whitespace)
        if text or done:
            self.pending = self._whitespace + text
            return self.then(self.outside)
        return False

    def _expect(self, mark: str) -> bool:
        self._call = JsonCall(self, mark, self._known)
        return self.then(self._inside)

    def _inside(self, done: bool) -> bool:
        return self.read_call(self._call, done, self._after_call)

    def _after_call(self, done: bool) -> bool:
        """Another call may follow a semicolon, a comma or whitespace."""
        if not self.skip_whitespace():
            return False
        if self.pending[0] in ";,":
            return self.then(self._separated)
        if self.pending[0] == "{":
            return self._expect("")
        return self.then(self.outside)

    def _separated(self, done: bool) -> bool:
        rest = self.pending[1:].lstrip()
        if rest.startswith("{"):
            mark = self.pending[: len(self.pending) - len(rest)]
            self.pending = rest
            return self._expect(mark)
        if rest or done:
            return self.then(self.outside)
        return False
