"""The short way of tokens: to the client in the same call that brings them from the worker.

Nearly every output of a worker is the next token of an answer whose client keeps up and whose
journey waits for nothing else. Then no task has to be woken to hand it on. Everything else (the
first token and the last, lost workers, slow readers, stop strings) goes the way of the generators,
in which a journey is written down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from router.answers.answer import Answer
from router.answers.ending import TokenTimes
from router.requests.request import Delta, GenerateRequest
from wire.messages import Output


class AnswerSink(Protocol):
    """To one client; a door has it."""

    def ready(self) -> bool:
        """The client has had the first delta, has read enough, and is there."""

    def take(self, delta: Delta) -> None:
        """Send it now."""


class Direct:
    """What becomes of tokens between a journey and the way to its client."""

    def __init__(
        self, way: AnswerSink, answer: Answer, watch: TokenTimes, spend: Callable[[int], None]
    ) -> None:
        self._way = way
        self._answer = answer
        self._watch = watch
        self._spend = spend
        self.ready = way.ready

    def take(self, output: Output) -> None:
        """What the merger has found to be next, in the middle of the answer."""
        num_tokens = len(output.tokens)
        self._watch.see(num_tokens)
        self._spend(num_tokens)
        self._way.take(self._answer.next_delta(output))


def may_go_direct(request: GenerateRequest) -> bool:
    """Several answers are read as one stream; a stop string, or a second call where one is
    allowed, can end an answer at any token."""
    one_call = request.tool_choice is not None and not request.parallel_tool_calls
    return request.n == 1 and not request.stop and not one_call
