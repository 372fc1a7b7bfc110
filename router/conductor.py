"""From a client's draft to a stream of text: admission, tokenizing, the journey, detokenizing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

from router.access.caller import CALLER
from router.answer import Answer
from router.branches import branch_out
from router.config import RouterConfig
from router.draft_checks import check_template, check_token_ids
from router.ending import Watch, make_ending
from router.errors import Overloaded, Unavailable
from router.fleet import Fleet
from router.journey import Journey
from router.merge import Tokens
from router.metrics import RouterMetrics
from router.prompts import ChatPrompt, Prompt, num_chars
from router.queueing.lobby import Lobby
from router.requests import Delta, GenerateRequest, RequestDraft
from router.structured import Structured
from router.text.model_card import ModelCard
from router.text.tokenizer import Tokenizer
from router.validation import (
    Bounds,
    build_request,
    check_draft,
    check_model,
    tokenize,
)
from wire.identity import WorkerRef

LONG_PROMPT_CHARS = 2048
"""Longer prompts are tokenized in a thread, so that other streams do not wait for them."""


class Conductor:
    """What both doors speak to."""

    def __init__(
        self,
        config: RouterConfig,
        card: ModelCard,
        tokenizer: Tokenizer,
        fleet: Fleet,
        metrics: RouterMetrics,
    ) -> None:
        self.config = config
        self.card = card
        self.tokenizer = tokenizer
        self.metrics = metrics
        self._fleet = fleet
        self.lobby = Lobby(fleet, config)
        metrics.watch_queue(self.lobby.__len__)
        self._structured = Structured(config, card, tokenizer)
        self._num_admitted = 0
        self._journeys: set[Journey] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    @property
    def ready(self) -> bool:
        """New requests can be served."""
        return self._fleet.ready and not self.draining

    @property
    def num_in_flight(self) -> int:
        """Answers that are being made now."""
        return self._num_admitted

    @property
    def max_model_len(self) -> int:
        """Of the model, or less when no worker holds that much."""
        return min(self.card.max_model_len, self._fleet.max_model_len or self.card.max_model_len)

    async def generate(
        self,
        draft: RequestDraft,
        first_index: int = 0,
        prepared: GenerateRequest | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """One delta per message to the client, the last of each answer with an ending.

        Answers are numbered from `first_index`; `prepared` is what `prepare` made of the draft, if
        it has been asked. Raises RouterError.
        """
        arrived_s = time.monotonic()

        def start(
            request: GenerateRequest, branch: int, at: WorkerRef | None
        ) -> tuple[Journey, AsyncGenerator[Delta, None]]:
            journey = Journey(request, self._fleet, self.config, at, hashes)
            answer = Answer(
                request,
                self.tokenizer,
                first_index + branch,
                self._structured.parser(request),
                self._structured.shown_tokens(request),
            )
            return journey, self._serve(request, journey, answer, arrived_s, branch)

        with self.permit(draft.n or 1):
            caller = CALLER.get()
            request = caller.admit(prepared or await self.prepare(draft), draft.priority)
            with caller.charge(len(request.prompt_tokens)) as spend:
                hashes = await self.lobby.enter(request)
                several = request.n > 1
                stream = branch_out(request, start) if several else start(request, 0, None)[1]
                async with aclosing(stream) as deltas:
                    async for delta in deltas:
                        spend(len(delta.tokens))
                        yield delta

    async def tokenize(self, prompt: Prompt | None, model: str | None) -> list[int]:
        """Raises InvalidRequest, ModelNotFound."""
        check_model(model, self.card.name)
        if isinstance(prompt, ChatPrompt):
            check_template(prompt, trusts_templates=self.config.trust_request_templates)
        if num_chars(prompt) < LONG_PROMPT_CHARS:
            return tokenize(prompt, self.tokenizer)
        return await asyncio.to_thread(tokenize, prompt, self.tokenizer)

    def detokenize(
        self, tokens: Sequence[int], model: str | None, *, skip_special_tokens: bool = True
    ) -> str:
        """Raises InvalidRequest, ModelNotFound."""
        check_model(model, self.card.name)
        check_token_ids(tokens, self.card.vocab_size, "token_ids")
        return self.tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)

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
    def permit(self, num_answers: int = 1) -> Iterator[None]:
        """A place in the router for each of a request's answers. Raises Unavailable, Overloaded."""
        if self.draining:
            raise Unavailable("this router is draining: use another one")
        num_places = min(max(1, num_answers), self.config.max_n)  # more are refused by name
        most = self.config.max_waiting
        if most - self._num_admitted < max(1, min(num_places, most)):
            raise Overloaded(f"{self._num_admitted} answers are being made: come back later")
        self._num_admitted += num_places
        self._idle.clear()
        self.metrics.in_flight.inc(num_places)
        try:
            yield
        finally:
            self._num_admitted -= num_places
            self.metrics.in_flight.dec(num_places)
            if self._num_admitted == 0:
                self._idle.set()

    async def prepare(self, draft: RequestDraft) -> GenerateRequest:
        """Checked and tokenized. Raises InvalidRequest, ModelNotFound."""
        bounds = Bounds(
            model=self.card.name,
            vocab_size=self.card.vocab_size,
            max_model_len=self.max_model_len,
            default_max_tokens=self.config.default_max_tokens,
            request_timeout_s=self.config.request_timeout_s,
            ttft_target_s=self.config.ttft_target_s,
            tpot_target_s=self.config.tpot_target_s,
            max_n=self.config.max_n,
            trusts_templates=self.config.trust_request_templates,
        )
        check_draft(draft, bounds)
        tokens = await self.tokenize(draft.prompt, draft.model)
        request = build_request(draft, tokens, bounds, self.tokenizer)
        return await self._structured.apply(request, draft)

    async def _serve(
        self,
        request: GenerateRequest,
        journey: Journey,
        answer: Answer,
        arrived_s: float,
        branch: int,
    ) -> AsyncGenerator[Delta, None]:
        watch = Watch(arrived_s)
        last: Tokens | None = None
        with self._listed(journey):
            async with aclosing(journey.tokens()) as stream:
                async for last in stream:
                    delta = answer.delta(last)
                    watch.see(len(last.tokens))
                    yield delta
                    if answer.text.stop_text is not None:
                        journey.learn()
                        break  # the workers hear of it as the journey closes
        assert last is not None, "a journey ends with a finish reason or an error"
        ending = make_ending(
            request, answer, last, journey.record, watch, counts_prompt=branch == 0
        )
        self.metrics.observe(ending)
        self.metrics.resubmissions.inc(ending.attempts - 1)
        yield Delta(text="", tokens=(), index=answer.index, ending=ending)

    @contextmanager
    def _listed(self, journey: Journey) -> Iterator[None]:
        self._journeys.add(journey)
        try:
            yield
        finally:
            self._journeys.discard(journey)
