"""The format of Llama Nemotron: <TOOLCALL>, a JSON list of calls, </TOOLCALL>."""

from __future__ import annotations

from router.answers.tool_calls.call_list import CallListScanner
from router.answers.tool_calls.scanner import MakeId, random_call_id

OPENING, CLOSING = "<TOOLCALL>", "</TOOLCALL>"


class NemotronScanner(CallListScanner):
    """Lists of calls, with text before and after them."""

    def __init__(self, make_id: MakeId = random_call_id) -> None:
        super().__init__(make_id, OPENING)

    def opened(self, done: bool) -> bool:
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
        return self.expect_call()

    def after_list(self, done: bool) -> bool:
        return self.skip_one_of((CLOSING,), done) and self.then(self.outside)
