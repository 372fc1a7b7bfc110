"""The format of Hermes, Qwen2.5 and Qwen3: <tool_call>, a JSON object, </tool_call>."""

from __future__ import annotations

from router.answers.tool_calls.scanner import CallScanner, JsonCall, MakeId, random_call_id

OPENING = "<tool_call>"
CLOSING = "</tool_call>"


class HermesScanner(CallScanner):
    """Any number of calls, with text before, between and after them."""

    def __init__(self, make_id: MakeId = random_call_id) -> None:
        super().__init__(make_id)
        self._call = JsonCall(self, OPENING)

    def outside(self, done: bool) -> bool:
        mark = self.emit_until((OPENING,), done)
        if mark is None:
            return False
        self._call = JsonCall(self, mark)
        return self.then(self._inside)

    def _inside(self, done: bool) -> bool:
        return self.read_call(self._call, done, self._closing)

    def _closing(self, done: bool) -> bool:
        """Skip the closing tag, which models sometimes omit."""
        return self.skip_one_of((CLOSING,), done) and self.then(self.outside)
