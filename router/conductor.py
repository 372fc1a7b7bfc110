"""From a client's draft to a stream of text: admission, tokenizing, the journey, detokenizing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

from router.config import RouterConfig
from router.ending import Watch, make_ending
from router.errors import Overloaded, Unavailable
from router.fleet import Fleet
from router.journey import Journey
from router.merge import Tokens
from router.metrics import RouterMetrics
from router.model_card import ModelCard
from router.requests import (
    ChatPrompt,
    Delta,
    GenerateRequest,
    Prompt,
    RequestDraft,
    TextPrompt,
)
from router.stops import StopMatcher
from router.text_stream import TextStream
from router.tokenizer import Tokenizer
from router.validation import (
    Bounds,
    build_request,
    check_draft,
    check_model,
    check_token_ids,
    tokenize,
)

LONG_PROMPT_CHARS = 8192
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
    def max_model_len(self) -> int:
        """Of the model, or less when no worker holds that much."""
        return min(self.card.max_model_len, self._fleet.max_model_len or self.card.max_model_len)

    async def generate(self, draft: RequestDraft) -> AsyncGenerator[Delta, None]:
        """One delta per message to the client, the last with an ending. Raises RouterError."""
        arrived_s = time.monotonic()
        with self._permit():
            request = await self._prepare(draft)
            async with aclosing(self._serve(request, arrived_s)) as deltas:
                async for delta in deltas:
                    yield delta

    async def tokenize(self, prompt: Prompt | None, model: str | None) -> list[int]:
        """Raises InvalidRequest, ModelNotFound."""
        check_model(model, self.card.name)
        if _num_chars(prompt) < LONG_PROMPT_CHARS:
            return tokenize(prompt, self.tokenizer)
        return await asyncio.to_thread(tokenize, prompt, self.tokenizer)

    def detokenize(self, tokens: Sequence[int], model: str | None) -> str:
        """Raises InvalidRequest, ModelNotFound."""
        check_model(model, self.card.name)
        check_token_ids(tokens, self.card.vocab_size, "token_ids")
        return self.tokenizer.decode(tokens)

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
    def _permit(self) -> Iterator[None]:
        if self.draining:
            raise Unavailable("this router is draining: use another one")
        if self._num_admitted >= self.config.max_waiting:
            raise Overloaded(f"{self._num_admitted} requests are being served: come back later")
        self._num_admitted += 1
        self._idle.clear()
        self.metrics.in_flight.inc()
        try:
            yield
        finally:
            self._num_admitted -= 1
            self.metrics.in_flight.dec()
            if self._num_admitted == 0:
                self._idle.set()

    async def _prepare(self, draft: RequestDraft) -> GenerateRequest:
        bounds = Bounds(
            model=self.card.name,
            vocab_size=self.card.vocab_size,
            max_model_len=self.max_model_len,
            default_max_tokens=self.config.default_max_tokens,
            request_timeout_s=self.config.request_timeout_s,
        )
        check_draft(draft, bounds)
        return build_request(draft, await self.tokenize(draft.prompt, draft.model), bounds)

    async def _serve(
        self, request: GenerateRequest, arrived_s: float
    ) -> AsyncGenerator[Delta, None]:
        journey = Journey(request, self._fleet, self.config)
        stops = StopMatcher(request.stop)
        text = TextStream(self.tokenizer.detokenizer(), stops, request.sampling.min_tokens)
        watch = Watch(arrived_s)
        last: Tokens | None = None
        with self._listed(journey):
            async with aclosing(journey.tokens()) as stream:
                async for last in stream:
                    shown = text.push(last)
                    watch.see(len(last.tokens))
                    yield Delta(
                        text=shown, tokens=tuple(last.tokens), logprobs=tuple(last.logprobs)
                    )
                    if text.stop_text is not None:
                        break  # the workers hear of it as the journey closes
        assert last is not None, "a journey ends with a finish reason or an error"
        ending = make_ending(request, text, last, journey.record, watch)
        self.metrics.observe(ending)
        self.metrics.resubmissions.inc(ending.attempts - 1)
        yield Delta(text="", tokens=(), ending=ending)

    @contextmanager
    def _listed(self, journey: Journey) -> Iterator[None]:
        self._journeys.add(journey)
        try:
            yield
        finally:
            self._journeys.discard(journey)


def _num_chars(prompt: Prompt | None) -> int:
    match prompt:
        case TextPrompt(text=text):
            return len(text)
        case ChatPrompt(messages=messages):
            return sum(len(message.content) for message in messages)
    return 0
