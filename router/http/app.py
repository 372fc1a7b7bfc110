"""The HTTP application: models, health, metrics, and errors in OpenAI's format."""

from __future__ import annotations

import time

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from router.errors import Internal, NoSuchRoute, RouterError
from router.http.generate_endpoint import GenerateEndpoint
from router.http.http_gates import ANSWER_PATHS
from router.http.roles_endpoint import RolesEndpoint
from router.http.text_endpoints import TextEndpoints
from router.journeys.conductor import Conductor
from router.metrics import CONTENT_TYPE
from router.models import ServedModel
from router.openai.headers import echoed_id, error_headers, read_head
from router.openai.response_bodies import HealthBody, LoadBody, ModelBody, ModelList, VersionBody
from router.openai.response_writer import error_body
from runtime.installed_version import installed_version


class App:
    """Routes generating requests past the framework, whose wrappers cost time for each token."""

    def __init__(self, generating: dict[str, ASGIApp], others: ASGIApp) -> None:
        self._generating = generating
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._others
        if scope["type"] == "http" and scope["method"] == "POST":
            app = self._generating.get(scope["path"], app)
        await app(scope, receive, send)


def build_app(conductor: Conductor) -> App:
    generating: dict[str, ASGIApp] = {
        path: GenerateEndpoint(conductor, chat=chat) for path, chat in ANSWER_PATHS.items()
    }
    return App(generating, _framework(conductor, generating))


def _framework(conductor: Conductor, generating: dict[str, ASGIApp]) -> Starlette:
    service = _Service(conductor)
    texts = TextEndpoints(conductor)
    roles = RolesEndpoint([*conductor.models])
    return Starlette(
        routes=[
            Route("/v1/models", service.models),
            Route("/v1/models/{name:path}", service.model),
            *(Route(path, app, methods=["POST"]) for path, app in generating.items()),
            Route("/tokenize", texts.tokenize, methods=["POST"]),
            Route("/detokenize", texts.detokenize, methods=["POST"]),
            Route("/version", service.version),
            Route("/ping", service.ping, methods=["GET", "POST"]),
            Route("/health", service.health),
            Route("/load", service.load),
            Route("/metrics", service.metrics),
            Route("/status", service.status),
            Route("/roles", roles.show),
            Route("/roles", roles.change, methods=["POST"]),
        ],
        exception_handlers={
            HTTPException: _no_such_route,
            RouterError: _router_error,
            Exception: _internal,
        },
    )


class _Service:
    """The endpoints that generate no tokens."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._created = int(time.time())

    async def models(self, request: Request) -> Response:
        return _json(request, ModelList(data=[*map(self._model, self._conductor.models)]))

    async def model(self, request: Request) -> Response:
        model = self._conductor.models.find(request.path_params["name"])
        return _json(request, self._model(model))

    async def version(self, request: Request) -> Response:
        return _json(request, VersionBody(version=installed_version()))

    async def ping(self, request: Request) -> Response:
        """Liveness: the process answers, whatever its workers do."""
        return Response()

    async def load(self, request: Request) -> Response:
        return _json(request, LoadBody(server_load=self._conductor.num_in_flight))

    async def health(self, request: Request) -> Response:
        if self._conductor.ready:
            return _json(request, HealthBody(status="ready"))
        status = "draining" if self._conductor.draining else "no worker is ready"
        return _json(request, HealthBody(status=status), 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self._conductor.metrics.expose(), headers={"content-type": CONTENT_TYPE})

    async def status(self, request: Request) -> Response:
        return _json(request, self._conductor.status(installed_version()))

    def _model(self, model: ServedModel) -> ModelBody:
        return ModelBody(
            id=model.name,
            created=self._created,
            root=model.name,
            max_model_len=model.max_model_len,
            sampling_defaults=dict(model.sampling_defaults),
        )


def _json(request: Request, body: msgspec.Struct, status: int = 200) -> Response:
    response = Response(msgspec.json.encode(body), status, media_type="application/json")
    response.raw_headers.extend(echoed_id(read_head(request.scope["headers"]).request_id))
    return response


async def _router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RouterError)
    status, body = error_body(error)
    response = _json(request, body, status)
    response.raw_headers.extend(error_headers(error))
    return response


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}: there is no such endpoint"
    response = await _router_error(request, NoSuchRoute(text, error.status_code))
    response.headers.update(error.headers or {})
    return response


async def _internal(request: Request, error: Exception) -> Response:
    return await _router_error(request, Internal(f"the router failed: {type(error).__name__}"))
