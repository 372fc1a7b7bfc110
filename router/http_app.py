"""What the HTTP door answers: models, health, metrics, and OpenAI-style errors for everything."""

from __future__ import annotations

import time

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from router.conductor import Conductor
from router.errors import NoSuchRoute, RouterError
from router.generate_endpoint import GenerateEndpoint
from router.metrics import CONTENT_TYPE
from router.openai_api import HealthBody, ModelBody, ModelList
from router.openai_responses import error_body
from router.validation import check_model


def build_app(conductor: Conductor) -> Starlette:
    service = _Service(conductor)
    completions = GenerateEndpoint(conductor, chat=False)
    chat = GenerateEndpoint(conductor, chat=True)
    return Starlette(
        routes=[
            Route("/v1/models", service.models),
            Route("/v1/models/{name:path}", service.model),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/health", service.health),
            Route("/metrics", service.metrics),
        ],
        exception_handlers={HTTPException: _no_such_route, RouterError: _router_error},
    )


class _Service:
    """The endpoints that generate nothing."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._created = int(time.time())

    async def models(self, request: Request) -> Response:
        return _json(ModelList(data=[self._model()]))

    async def model(self, request: Request) -> Response:
        check_model(request.path_params["name"], self._conductor.card.name)
        return _json(self._model())

    async def health(self, request: Request) -> Response:
        if self._conductor.ready:
            return _json(HealthBody(status="ready"))
        status = "draining" if self._conductor.draining else "no worker is ready"
        return _json(HealthBody(status=status), 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self._conductor.metrics.expose(), headers={"content-type": CONTENT_TYPE})

    def _model(self) -> ModelBody:
        return ModelBody(
            id=self._conductor.card.name,
            created=self._created,
            max_model_len=self._conductor.max_model_len,
        )


def _json(body: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


async def _router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RouterError)
    status, body = error_body(error)
    return _json(body, status)


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}: there is no such endpoint"
    response = await _router_error(request, NoSuchRoute(text, error.status_code))
    response.headers.update(error.headers or {})
    return response
