"""From a client's drafts to its answers: a place, admission, and a journey for each answer."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from router.access.caller import CALLER
from router.answers.sink import AnswerSink
from router.answers.unread import Unread
from router.config import RouterConfig
from router.errors import Overloaded, RouterError, Unavailable
from router.journeys.branch import AnswerContext
from router.journeys.branches import answer_prompt, run_together
from router.journeys.journey import Journey
from router.metrics import RouterMetrics
from router.models import Models, ServedModel
from router.requests.request import GenerateRequest, RequestDraft
from router.roles.model_status import StatusBody


class Conductor:
    """The entry point of both API servers."""

    def __init__(self, config: RouterConfig, models: Models, metrics: RouterMetrics) -> None:
        self.config = config
        self.models = models
        self.metrics = metrics
        self.unread = Unread(config.max_unread_bytes, config.max_unread_total_bytes)
        metrics.show_unread(lambda: self.unread.num_bytes)
        for model in models:
            metrics.add_model(model.name, model.admission_queue.__len__)
            metrics.show_wanted(model.name, model.watcher.wanted)
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
    def router_id(self) -> str:
        return next(iter(self.models)).fleet.router_id

    @property
    def num_in_flight(self) -> int:
        """Answers that are being made now."""
        return sum(model.num_admitted for model in self.models)

    def status(self, version: str) -> StatusBody:
        """The status of all models; `version` is this program's."""
        return StatusBody(
            router_id=self.router_id,
            version=version,
            draining=self.draining,
            models=tuple(model.status() for model in self.models),
        )

    async def generate(self, drafts: Sequence[RequestDraft], sink: AnswerSink) -> None:
        """Send all answers to one request, the last delta of each with an ending; returns when the
        sink is drained. Tokens that precede an error leave before it is raised.

        The drafts, one for each prompt, are of one model. Answers are numbered from 0, all those to
        the first prompt first. None begins before all prompts are valid; they are charged together.
        Raises RouterError.
        """
        arrived_s = time.monotonic()
        model = self.models.find(drafts[0].model)
        with ExitStack() as permits:
            for draft in drafts:
                permits.enter_context(self.permit(model, draft.n or 1))
            requests = await _prepare(model, drafts)
            try:
                with CALLER.get().charge(sum(len(it.prompt_tokens) for it in requests)) as spend:
                    shared = AnswerContext(
                        model, self.metrics, sink, spend, self._journeys, arrived_s
                    )
                    firsts = itertools.accumulate((it.n for it in requests), initial=0)
                    await run_together([*map(partial(answer_prompt, shared), requests, firsts)])
            except RouterError:
                await sink.drain()
                raise
            await sink.drain()

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
        self.metrics.child(self.metrics.in_flight, model.name).inc(num_places)
        try:
            yield
        finally:
            model.num_admitted -= num_places
            self.metrics.child(self.metrics.in_flight, model.name).dec(num_places)
            if self.num_in_flight == 0:
                self._idle.set()


async def _prepare(model: ServedModel, drafts: Sequence[RequestDraft]) -> list[GenerateRequest]:
    """The requests as their caller may have them. Raises Forbidden, InvalidRequest."""
    caller, requests = CALLER.get(), []
    for number, draft in enumerate(drafts):
        if number:
            await asyncio.sleep(0)  # many prompts take time together: others go between
        requests.append(await model.prepare(caller.admit(draft)))
    return requests
