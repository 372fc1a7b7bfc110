"""One answer to one prompt: a journey whose tokens become deltas in the call that brings them."""

from __future__ import annotations

import msgspec

from router.access.caller import Spend
from router.answers.answer import Answer
from router.answers.ending import TokenTimes, make_ending
from router.answers.sink import AnswerSink
from router.journeys.journey import Journey
from router.metrics import RouterMetrics
from router.models import ServedModel
from router.queueing.admitted import Admitted
from router.requests.request import Delta, Ending, GenerateRequest
from wire.identity import WorkerRef
from wire.messages import Output


class AnswerContext(msgspec.Struct, frozen=True):
    """The part that all answers to a request share."""

    model: ServedModel
    metrics: RouterMetrics
    sink: AnswerSink
    spend: Spend
    """Charges generated tokens to the caller."""
    journeys: set[Journey]
    """All journeys that are running in this router."""
    arrived_s: float


class Branch:
    """One answer: sends its deltas to the sink, its ending last."""

    def __init__(
        self,
        shared: AnswerContext,
        request: GenerateRequest,
        admitted: Admitted,
        index: int,
        *,
        at: WorkerRef | None = None,
        counts_prompt: bool = True,
    ) -> None:
        """`at` is the worker that has the prompt cached, or None. Of several answers to a prompt,
        one counts it."""
        model = shared.model
        self.journey = Journey(request, model.fleet, model.config, at, admitted)
        self._shared = shared
        self._request = request
        self._counts_prompt = counts_prompt
        self._answer = Answer(
            request,
            model.tokenizer,
            index,
            model.structured.parser(request),
            model.structured.shown_tokens(request),
        )
        self._times = TokenTimes(shared.arrived_s)
        self._last: Output | None = None
        self._send, self._spend = shared.sink.send, shared.spend

    async def run(self) -> None:
        """Until the answer is complete. Raises RouterError after the tokens that preceded it."""
        self._shared.journeys.add(self.journey)
        try:
            await self.journey.run(self._take)
        finally:
            self._shared.journeys.discard(self.journey)
        ending = self._ending()
        self._shared.metrics.observe(ending, self.journey.record, self._shared.model.name)
        self._shared.model.watcher.answered(self._request, ending.timing)
        self._send(Delta(text="", tokens=(), index=self._answer.index, ending=ending))

    def _ending(self) -> Ending:
        assert self._last is not None, "a journey ends with a finish reason or an error"
        return make_ending(
            self._request,
            self._answer,
            self._last,
            self.journey.record,
            self._times,
            counts_prompt=self._counts_prompt,
        )

    def _take(self, output: Output) -> bool:
        """Send new tokens to the sink; returns whether the answer wants more."""
        delta = self._answer.delta(output)
        num_tokens = len(delta.tokens)
        self._times.record(num_tokens or len(output.tokens))  # untold tokens have a time, too
        self._spend(num_tokens)
        self._send(delta)
        text = self._answer.text
        if text.finish is None:
            return True
        self._last = output
        self.journey.learn(text.num_tokens)
        return not text.ended_here
