"""The format of Llama Nemotron: <TOOLCALL>, a JSON list of calls, </TOOLCALL>."""

from __future__ import annotations

from router.answers.tool_calls.scanner import CallScanner, DrawId, JsonCall, draw_call_id

OPENING, CLOSING = "<TOOLCALL>", "</TOOLCALL>"


class NemotronScanner(CallScanner):
    """Lists of calls, with text before and after them."""

    def __init__(self, draw_id: DrawId = draw_call_id) -> None:
        super().__init__(draw_id)
        self._mark = OPENING
        self._call = JsonCall(self, OPENING)

    def outside(self, done: bool) -> bool:
        mark = self.tell_up_to((OPENING,), done)
        if mark is None:
            return False
        self._mark = mark
        return self.go(self._opened)

    def _opened(self, done: bool) -> bool:
        rest = self.pending.lstrip()
        if not rest:
            if done:
                self.tell_text(self._mark)
                self.tell_pending()
            return False
        if rest[0] == "[":
            taken = len(self.pending) - len(rest) + 1
            self._mark += self.pending[:taken]
            self.drop(taken)
        self._call = JsonCall(self, self._mark)
        return self.go(self._inside)

    def _inside(self, done: bool) -> bool:
        return self.go_behind(self._call, done, self._listed)

    def _listed(self, done: bool) -> bool:
        """After a call of the list: another one, or the list's end."""
        if not self.skip_blanks():
            return False
        if self.pending[0] == ",":
            self.drop(1)
            self._call = JsonCall(self, ",")
            return self.go(self._inside)
        if self.pending[0] == "]":
            self.drop(1)
        return self.go(self._closing)

    def _closing(self, done: bool) -> bool:
        return self.skip_one_of((CLOSING,), done) and self.go(self.outside)
