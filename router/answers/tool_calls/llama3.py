"""The format of Llama 3.1 to 3.3: the answer is a JSON object, perhaps behind <|python_tag|>."""

from __future__ import annotations

from router.answers.tool_calls.scanner import CallScanner, DrawId, JsonCall, draw_call_id

PYTHON_TAG = "<|python_tag|>"


class Llama3Scanner(CallScanner):
    """Calls stand at the answer's beginning, or behind the tag, several of them parted by ";".

    Since any answer may be JSON, only an object that names a `known` tool is a call.
    """

    def __init__(self, known: frozenset[str], draw_id: DrawId = draw_call_id) -> None:
        super().__init__(draw_id)
        self._known = known
        self._blanks = ""
        self._call = JsonCall(self, "", known)
        self.go(self._beginning)

    def outside(self, done: bool) -> bool:
        mark = self.tell_up_to((PYTHON_TAG,), done)
        return mark is not None and self._expect(mark)

    def _beginning(self, done: bool) -> bool:
        """Blanks are kept for the case that no call follows."""
        text = self.pending.lstrip()
        self._blanks += self.pending[: len(self.pending) - len(text)]
        self.pending = text
        if text.startswith("{"):
            return self._expect(self._blanks)
        if text or done:
            self.pending = self._blanks + text
            return self.go(self.outside)
        return False

    def _expect(self, mark: str) -> bool:
        self._call = JsonCall(self, mark, self._known)
        return self.go(self._inside)

    def _inside(self, done: bool) -> bool:
        return self.go_behind(self._call, done, self._behind)

    def _behind(self, done: bool) -> bool:
        """Another call follows a semicolon or a comma, or a blank."""
        if not self.skip_blanks():
            return False
        if self.pending[0] in ";,":
            return self.go(self._parted)
        if self.pending[0] == "{":
            return self._expect("")
        return self.go(self.outside)

    def _parted(self, done: bool) -> bool:
        rest = self.pending[1:].lstrip()
        if rest.startswith("{"):
            mark = self.pending[: len(self.pending) - len(rest)]
            self.pending = rest
            return self._expect(mark)
        if rest or done:
            return self.go(self.outside)
        return False
