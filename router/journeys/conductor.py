"""From a client's draft to a stream of text: a place, admission, the journey, detokenizing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from router.access.caller import CALLER
from router.answers.answer import Answer
from router.answers.direct import AnswerSink, Direct, may_go_direct
from router.answers.ending import TokenTimes, make_ending
from router.answers.token_merger import Tokens
from router.config import RouterConfig
from router.errors import Overloaded, Unavailable
from router.fleet.unread import Reader, Unread
from router.journeys.branches import branch_out
from router.journeys.journey import Journey
from router.metrics import RouterMetrics
from router.models import Models, ServedModel
from router.requests.request import Delta, GenerateRequest, RequestDraft
from wire.identity import WorkerRef


class Conductor:
    """What both doors speak to."""

    def __init__(self, config: RouterConfig, models: Models, metrics: RouterMetrics) -> None:
        self.config = config
        self.models = models
        self.metrics = metrics
        self.unread = Unread(config.max_unread_bytes, config.max_unread_total_bytes)
        metrics.show_unread(lambda: self.unread.num_bytes)
        for model in models:
            metrics.add_model(model.name, model.admission_queue.__len__)
        self._journeys: set[Journey] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False
        """Whether health checks are told to go elsewhere."""
        self.refuses = False
        """Whether new requests are refused."""

    @property
    def ready(self) -> bool:
        """New requests can be served, of one model at least."""
        return any(map(self.serves, self.models))

    def serves(self, model: ServedModel) -> bool:
        """New requests of this model can be served."""
        return model.ready and not self.draining

    @property
    def num_in_flight(self) -> int:
        """Answers that are being made now."""
        return sum(model.num_admitted for model in self.models)

    async def generate(
        self,
        draft: RequestDraft,
        first_index: int = 0,
        prepared: GenerateRequest | None = None,
        way: AnswerSink | None = None,
        client: Reader | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """One delta per message to the client, the last of each answer with an ending.

        Answers are numbered from `first_index`; `prepared` is what `prepare` made of the draft, if
        it has been asked. Deltas that take the `way` are not yielded. What waits until they are
        read is counted with `client`. Raises RouterError.
        """
        arrived_s = time.monotonic()
        model = self.models.find(draft.model)

        def start(
            request: GenerateRequest, branch: int, at: WorkerRef | None
        ) -> tuple[Journey, AsyncGenerator[Delta, None]]:
            answer = Answer(
                request,
                model.tokenizer,
                first_index + branch,
                model.structured.parser(request),
                model.structured.shown_tokens(request),
            )
            watch, direct = TokenTimes(arrived_s), None
            if way is not None and may_go_direct(request):
                direct = Direct(way, answer, watch, spend)
            journey = Journey(request, model.fleet, model.config, at, entry, direct, client)
            return journey, self._serve(model, request, journey, answer, watch, branch)

        with self.permit(model, draft.n or 1):
            caller = CALLER.get()
            request = prepared or await model.prepare(caller.admit(draft))
            with caller.charge(len(request.prompt_tokens)) as spend:
                with self.metrics.admission.labels(model.name).time():
                    entry = await model.admission_queue.enter(request)
                several = request.n > 1
                stream = branch_out(request, start) if several else start(request, 0, None)[1]
                async with aclosing(stream) as deltas:
                    async for delta in deltas:
                        spend(len(delta.tokens))
                        yield delta

    async def wait_idle(self, timeout_s: float) -> bool:
        """True when no request is left."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def stop_all(self) -> None:
        """Every request that is under way ends with Unavailable."""
        for journey in self._journeys:
            journey.stop()

    @contextmanager
    def permit(self, model: ServedModel, num_answers: int = 1) -> Iterator[None]:
        """A place in the router for each of a request's answers; each model has its own places.
        Raises Unavailable, Overloaded."""
        if self.refuses:
            raise Unavailable("this router is draining: use another one", reason="draining")
        num_places = min(max(1, num_answers), self.config.max_n)  # more are refused by name
        most = model.config.max_waiting
        if most - model.num_admitted < max(1, min(num_places, most)):
            raise Overloaded(f"{model.num_admitted} answers are being made: come back later")
        model.num_admitted += num_places
        self._idle.clear()
        self.metrics.in_flight.labels(model.name).inc(num_places)
        try:
            yield
        finally:
            model.num_admitted -= num_places
            self.metrics.in_flight.labels(model.name).dec(num_places)
            if self.num_in_flight == 0:
                self._idle.set()

    async def prepare(self, draft: RequestDraft) -> GenerateRequest:
        """Checked and tokenized, as its caller may have it. Raises Forbidden, InvalidRequest,
        ModelNotFound."""
        return await self.models.find(draft.model).prepare(CALLER.get().admit(draft))

    async def _serve(
        self,
        model: ServedModel,
        request: GenerateRequest,
        journey: Journey,
        answer: Answer,
        watch: TokenTimes,
        branch: int,
    ) -> AsyncGenerator[Delta, None]:
        last: Tokens | None = None
        with self._listed(journey):
            async with aclosing(journey.tokens()) as stream:
                async for last in stream:
                    delta = answer.delta(last)
                    watch.see(len(last.tokens))
                    if answer.text.finish is not None:
                        journey.learn(answer.text.num_tokens)
                    yield delta
                    if answer.text.ended_here:
                        break  # the workers hear of it as the journey closes
        assert last is not None, "a journey ends with a finish reason or an error"
        ending = make_ending(
            request, answer, last, journey.record, watch, counts_prompt=branch == 0
        )
        self.metrics.observe(ending, journey.record, model.name)
        yield Delta(text="", tokens=(), index=answer.index, ending=ending)

    @contextmanager
    def _listed(self, journey: Journey) -> Iterator[None]:
        self._journeys.add(journey)
        try:
            yield
        finally:
            self._journeys.discard(journey)
