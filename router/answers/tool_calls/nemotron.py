"""The format of Llama Nemotron: <TOOLCALL>, a JSON list of calls, </TOOLCALL>."""

from __future__ import annotations

from router.answers.tool_calls.scanner import CallScanner, JsonCall, MakeId, random_call_id

OPENING, CLOSING = "<TOOLCALL>", "</TOOLCALL>"


class NemotronScanner(CallScanner):
    """Lists of calls, with text before and after them."""

    def __init__(self, make_id: MakeId = random_call_id) -> None:
        super().__init__(make_id)
        self._mark = OPENING
        self._call = JsonCall(self, OPENING)

    def outside(self, done: bool) -> bool:
        mark = self.emit_until((OPENING,), done)
        if mark is None:
            return False
        self._mark = mark
        return self.then(self._opened)

    def _opened(self, done: bool) -> bool:
        rest = self.pending.lstrip()
        if not rest:
            if done:
                self.emit_text(self._mark)
                self.emit_pending()
            return False
        if rest[0] == "[":
            taken = len(self.pending) - len(rest) + 1
            self._mark += self.pending[:taken]
            self.drop(taken)
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
            self._call = JsonCall(self, ",")
            return self.then(self._inside)
        if self.pending[0] == "]":
            self.drop(1)
        return self.then(self._closing)

    def _closing(self, done: bool) -> bool:
        return self.skip_one_of((CLOSING,), done) and self.then(self.outside)
