"""POST /v1/completions and /v1/chat/completions, streamed and whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.types import Receive, Scope, Send

from router.access.caller import CALLER, Prepaid
from router.answers.direct import AnswerSink
from router.answers.pacing import paced
from router.errors import (
    ClientGone,
    Internal,
    InvalidRequest,
    RouterError,
    nesting_is_invalid_request,
)
from router.fleet.unread import Reader
from router.http.asgi import (
    Headers,
    read_body,
    send_chunk,
    send_json,
    send_start,
    while_connected,
)
from router.http.http_answer import HttpAnswer, StreamWay
from router.journeys.branches import Streams
from router.journeys.conductor import Conductor
from router.metrics import Counted
from router.openai.body_parsing import chat_draft, completion_drafts, parse_body
from router.openai.chat import ChatWriter
from router.openai.completions import CompletionWriter
from router.openai.headers import RequestHead, echoed_id, read_head
from router.openai.request_bodies import ChatBody, CommonBody, CompletionBody
from router.openai.response_writer import ResponseOptions, ResponseWriter
from router.requests.request import Delta, GenerateRequest, RequestDraft

EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies that buffer would hold tokens back
]
log = logging.getLogger("tandem.router.http")


class _Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What one HTTP request wants: an answer, or several to each of its prompts."""

    model: str
    drafts: list[RequestDraft]
    n: int
    style: ResponseWriter
    stream: bool
    interval: int
    names: dict[str, str]
    """Of fields for which this client used another name than the drafts do."""

    @property
    def request_id(self) -> str:
        return self.drafts[0].request_id


class GenerateEndpoint:
    """An ASGI application: it must see the client leave, which an ordinary endpoint does not."""

    def __init__(self, conductor: Conductor, *, chat: bool) -> None:
        self._conductor = conductor
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = read_head(scope["headers"])
        answer = HttpAnswer(scope, send, head)
        try:
            with self._conductor.metrics.request("http") as counted, nesting_is_invalid_request():
                limit = self._conductor.config.max_body_bytes
                body = await read_body(scope, receive, limit)
                await while_connected(receive, self._serve(body, head, answer, counted))
        except ClientGone:
            return
        except RouterError as error:
            await answer.fail(error)
        except Exception as error:
            log.exception("a request to %s failed", scope["path"])
            await answer.fail(Internal(f"the router failed: {type(error).__name__}"))

    async def _serve(
        self, content: bytes, head: RequestHead, answer: HttpAnswer, counted: Counted
    ) -> None:
        job = self._parse(content, head)
        counted.model = job.model
        answer.request_id = job.request_id
        answer.names = job.names
        way = None
        if job.stream and answer.chunks is not None:
            way = StreamWay(answer, job.style, answer.chunks)
        async with (
            self._conductor.unread.reader() as client,
            aclosing(await self._deltas(job, way, client)) as deltas,
        ):
            await _tell(deltas, job, answer)

    def _parse(self, content: bytes, head: RequestHead) -> _Generation:
        if self._chat:
            chat = parse_body(content, ChatBody)
            return self._job(chat, [chat_draft(chat, head)], ChatWriter, echo=False)
        body = parse_body(content, CompletionBody)
        drafts = completion_drafts(body, head)
        return self._job(body, drafts, CompletionWriter, echo=bool(body.echo))

    def _job(
        self,
        body: CommonBody,
        drafts: list[RequestDraft],
        style: type[ResponseWriter],
        *,
        echo: bool,
    ) -> _Generation:
        most = self._conductor.config.max_choices
        n = max(1, body.n or 1)
        if len(drafts) > 1 and len(drafts) * n > most:
            text = f"{len(drafts)} prompts with n {n}: at most {most} answers are made"
            raise InvalidRequest(text, "prompt")
        if body.stream_interval is not None and body.stream_interval < 1:
            raise InvalidRequest("stream_interval must be at least 1", "stream_interval")
        form = _form(body, drafts, n, echo=echo)
        model = self._conductor.models.find(body.model)
        return _Generation(
            model=model.name,
            drafts=drafts,
            n=n,
            style=style(drafts[0].request_id, model.name, model.tokenizer, form),
            stream=bool(body.stream),
            interval=body.stream_interval or 1,
            names=_names(body),
        )

    async def _deltas(
        self, job: _Generation, way: AnswerSink | None, client: Reader
    ) -> AsyncGenerator[Delta, None]:
        """Of several prompts none begins before all of them are known to be sound."""
        if len(job.drafts) == 1:
            own = way if job.interval == 1 else None
            deltas = self._conductor.generate(job.drafts[0], way=own, client=client)
        else:
            requests = [await self._prepare(draft) for draft in job.drafts]
            deltas = self._together(job, requests, client)
        return paced(deltas, job.interval) if job.interval > 1 else deltas

    async def _together(
        self, job: _Generation, requests: list[GenerateRequest], client: Reader
    ) -> AsyncGenerator[Delta, None]:
        """Charged as one: else those that a key can pay for would be lost with those it cannot."""
        caller, generate = CALLER.get(), self._conductor.generate
        with caller.charge(sum(len(request.prompt_tokens) for request in requests)) as spend:
            CALLER.set(Prepaid(caller))
            streams = [
                generate(draft, number * job.n, request, client=client)
                for number, (draft, request) in enumerate(zip(job.drafts, requests, strict=True))
            ]
            async with aclosing(Streams(streams).read()) as deltas:
                async for delta in deltas:
                    spend(len(delta.tokens))
                    yield delta

    async def _prepare(self, draft: RequestDraft) -> GenerateRequest:
        await asyncio.sleep(0)  # many prompts take time together: others go between
        return await self._conductor.prepare(draft)


async def _tell(deltas: AsyncGenerator[Delta, None], job: _Generation, answer: HttpAnswer) -> None:
    if job.stream:
        await _stream(deltas, job.style, answer)
        return
    whole = job.style.whole_body([delta async for delta in deltas])
    answer.started = True
    await send_json(answer.send, 200, whole, *echoed_id(job.request_id))


async def _stream(
    deltas: AsyncGenerator[Delta, None], style: ResponseWriter, answer: HttpAnswer
) -> None:
    """The headers leave with the first token: until then an error can still be a status."""
    send = answer.send
    async for delta in deltas:
        if not answer.started:
            answer.started = True
            await send_start(send, 200, EVENT_STREAM + echoed_id(answer.request_id))
        if events := style.events(delta):
            await send({"type": "http.response.body", "body": events, "more_body": True})
    await send_chunk(send, b"".join(style.last_events()), more=False)


def _names(body: CommonBody) -> dict[str, str]:
    names = {}
    if body.max_completion_tokens is not None:
        names["max_tokens"] = "max_completion_tokens"
    if isinstance(body, ChatBody):
        names["logprobs"] = "top_logprobs"
    return names


def _form(body: CommonBody, drafts: list[RequestDraft], n: int, *, echo: bool) -> ResponseOptions:
    options = body.stream_options
    return ResponseOptions(
        usage=options is not None and bool(options.include_usage),
        running_usage=options is not None and bool(options.continuous_usage_stats),
        token_ids=bool(body.return_token_ids),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        skip_special_tokens=body.skip_special_tokens is not False,
        logprobs=isinstance(body, CompletionBody) and body.logprobs is not None,
        prompt_logprobs=body.prompt_logprobs is not None,
        echo=echo,
        prompts=tuple(draft.prompt for draft in drafts if draft.prompt is not None),
        n=n,
    )
