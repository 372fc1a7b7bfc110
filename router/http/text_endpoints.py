"""POST /tokenize and /detokenize."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from router.errors import ClientGone, InvalidRequest, nesting_is_invalid_request
from router.http.asgi import read_body
from router.journeys.conductor import Conductor
from router.openai.body_parsing import Body, parse_body
from router.openai.headers import echoed_id, read_head
from router.openai.prompt_parsing import tokenize_prompt
from router.openai.request_bodies import DetokenizeBody, TokenizeBody
from router.openai.response_bodies import DetokenizeAnswer, TokenizeAnswer

CLIENT_CLOSED = 499
Answer = TypeVar("Answer", bound=msgspec.Struct)


class TextEndpoints:
    """The endpoints that need only the tokenizer. Errors are raised as RouterError."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    async def tokenize(self, request: Request) -> Response:
        """Text or a chat to token ids."""
        return await self._answer(request, TokenizeBody, self._tokenize)

    async def detokenize(self, request: Request) -> Response:
        """Token ids to text."""
        return await self._answer(request, DetokenizeBody, self._detokenize)

    async def _tokenize(self, body: TokenizeBody) -> TokenizeAnswer:
        model = self._conductor.models.find(body.model)
        with self._conductor.permit(model):  # tokenizing a long text occupies a thread for a while
            tokens = await model.tokenize(tokenize_prompt(body))
        return TokenizeAnswer(
            count=len(tokens),
            max_model_len=model.max_model_len,
            tokens=tokens,
            token_strs=await model.token_texts(tokens) if body.return_token_strs else None,
        )

    async def _detokenize(self, body: DetokenizeBody) -> DetokenizeAnswer:
        if body.tokens is None:
            raise InvalidRequest("there are no tokens", "tokens")
        model = self._conductor.models.find(body.model)
        detokenize = partial(model.detokenize, skip_special_tokens=bool(body.skip_special_tokens))
        try:
            return DetokenizeAnswer(prompt=await asyncio.to_thread(detokenize, body.tokens))
        except InvalidRequest as error:
            error.field = "tokens" if error.field == "token_ids" else error.field
            raise

    async def _answer(
        self, request: Request, kind: type[Body], answer: Callable[[Body], Awaitable[Answer]]
    ) -> Response:
        try:
            limit = self._conductor.config.max_body_bytes
            content = await read_body(request.scope, request.receive, limit)
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED)
        with nesting_is_invalid_request():
            body = await answer(parse_body(content, kind))
        head = read_head(request.scope["headers"])
        response = Response(msgspec.json.encode(body), media_type="application/json")
        response.raw_headers.extend(echoed_id(head.request_id))
        return response
