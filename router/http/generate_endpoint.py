"""POST /v1/completions and /v1/chat/completions, streamed or complete."""

from __future__ import annotations

import logging

import msgspec
from starlette.types import Receive, Scope, Send

from router.answers.sink import CollectingSink, StreamSink
from router.errors import (
    ClientGone,
    Internal,
    InvalidRequest,
    RouterError,
    nesting_is_invalid_request,
)
from router.http.asgi import read_body, send_chunk, send_json, while_connected
from router.http.http_answer import EventWriter, HttpAnswer
from router.journeys.conductor import Conductor
from router.metrics import Counted
from router.openai.body_parsing import chat_draft, completion_drafts, parse_body
from router.openai.chat import ChatWriter
from router.openai.completions import CompletionWriter
from router.openai.headers import RequestHead, echoed_id, read_head
from router.openai.request_bodies import ChatBody, CommonBody, CompletionBody
from router.openai.response_writer import ResponseOptions, ResponseWriter
from router.requests.request import RequestDraft

log = logging.getLogger("tandem.router.http")


class _Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed HTTP request: one or several answers to each of its prompts."""

    model: str
    drafts: list[RequestDraft]
    style: ResponseWriter
    stream: bool
    interval: int
    names: dict[str, str]
    """The client's names of fields that drafts call otherwise."""

    @property
    def request_id(self) -> str:
        return self.drafts[0].request_id


class GenerateEndpoint:
    """The ASGI application of one endpoint, which unlike an ordinary endpoint notices
    disconnects."""

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
        if job.stream:
            await self._stream(job, answer)
        else:
            await self._send_whole(job, answer)

    async def _stream(self, job: _Generation, answer: HttpAnswer) -> None:
        async with self._conductor.unread.reader() as client:
            sink = StreamSink(EventWriter(answer, job.style), client, job.interval)
            await self._conductor.generate(job.drafts, sink)
        await send_chunk(answer.send, b"".join(job.style.last_events()), more=False)

    async def _send_whole(self, job: _Generation, answer: HttpAnswer) -> None:
        sink = CollectingSink()
        await self._conductor.generate(job.drafts, sink)
        whole = job.style.whole_body(sink.deltas)
        answer.started = True
        await send_json(answer.send, 200, whole, *echoed_id(job.request_id))

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
            style=style(drafts[0].request_id, model.name, model.tokenizer, form),
            stream=bool(body.stream),
            interval=body.stream_interval or 1,
            names=_names(body),
        )


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
