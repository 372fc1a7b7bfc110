"""The gRPC door: tandem.v1.Inference, health and reflection on one port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import google.protobuf.message
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from router.access.gate import Gate
from router.answers.sink import StreamSink
from router.config import RouterConfig
from router.errors import Internal, InvalidRequest, NotRead, RouterError, nesting_is_invalid_request
from router.grpc_api.call_writer import CallWriter
from router.grpc_api.drafts import draft_from, prompt_from
from router.grpc_api.grpc_gate import GrpcGate, connection_options
from router.grpc_api.grpc_responses import GrpcResponses
from router.grpc_api.status import abort
from router.intake.draft_checks import SPLIT_HEADER
from router.journeys.conductor import Conductor
from router.models import ServedModel
from router.requests.trace import trace_id
from runtime.listen import bind
from wire import inference_pb2 as pb

SERVICE = "tandem.v1.Inference"
log = logging.getLogger("tandem.router.grpc")

Answer = TypeVar("Answer")
Request = TypeVar("Request")


class GrpcDoor:
    """One server. `start` binds, `show_readiness` moves the health, `stop` ends."""

    def __init__(self, conductor: Conductor, gate: Gate) -> None:
        self._conductor = conductor
        self._health = health.aio.HealthServicer()
        self._retiring: asyncio.Task[None] | None = None
        timeout_s = conductor.config.request_timeout_s
        self._server = grpc.aio.server(
            options=_options(conductor.config),
            interceptors=[GrpcGate(gate, conductor.metrics, request_timeout_s=timeout_s)],
        )
        self._server.add_generic_rpc_handlers([_handlers(_Servicer(conductor))])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if conductor.config.grpc_reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)

    async def start(self, host: str, port: int) -> int:
        """The port that was bound. Raises PortTaken, BadCertificate."""
        config = self._conductor.config
        bound = bind(self._server, host, port, key="grpc_port", tls=config.door_tls)
        await self.show_readiness()
        await self._server.start()
        return bound

    async def show_readiness(self) -> None:
        """Update the health service: the server and the service serve while any model can be
        served, and each model has a health of its own."""
        conductor = self._conductor
        ready = {f"{SERVICE}/{model.name}": conductor.serves(model) for model in conductor.models}
        status = health_pb2.HealthCheckResponse.ServingStatus
        for name, serves in {"": conductor.ready, SERVICE: conductor.ready, **ready}.items():
            await self._health.set(name, status.SERVING if serves else status.NOT_SERVING)

    def retire(self, timeout_s: float) -> None:
        """Listen no more, and tell clients (GOAWAY) to take new calls elsewhere; those under way
        may end within `timeout_s`."""
        self._retiring = asyncio.create_task(self._server.stop(timeout_s), name="gRPC door retires")

    async def stop(self, grace_s: float) -> None:
        await self._server.stop(grace_s)
        if self._retiring is not None:
            await self._retiring


class _Servicer:
    """The four RPCs. A request is None when its bytes were no message."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    async def generate(
        self, request: pb.GenerateRequest | None, context: grpc.aio.ServicerContext
    ) -> None:
        with self._conductor.metrics.request("grpc") as counted, nesting_is_invalid_request():
            request = _checked(request)
            head = {str(name): value for name, value in context.invocation_metadata() or ()}
            trace, split = trace_id(head.get("traceparent")), head.get(SPLIT_HEADER)
            draft = draft_from(request, context.time_remaining(), trace, split)
            model = self._conductor.models.find(draft.model)
            counted.model = model.name
            responses = GrpcResponses(request, draft.request_id, draft.prompt, model.tokenizer)
            writer = CallWriter(context, responses)
            try:
                async with self._conductor.unread.reader() as client:
                    sink = StreamSink(writer, client, request.stream_interval)
                    await self._conductor.generate([draft], sink)
            except NotRead:
                await writer.wait_headers()
                raise

    async def tokenize(
        self, request: pb.TokenizeRequest | None, context: grpc.aio.ServicerContext
    ) -> pb.TokenizeResponse:
        request = _checked(request)
        model = self._model(request)
        with nesting_is_invalid_request(), self._conductor.permit(model):
            tokens = await model.tokenize(prompt_from(request))
        texts = await model.token_texts(tokens) if request.return_token_texts else None
        return pb.TokenizeResponse(token_ids=tokens, token_texts=texts)

    async def detokenize(
        self, request: pb.DetokenizeRequest | None, context: grpc.aio.ServicerContext
    ) -> pb.DetokenizeResponse:
        request = _checked(request)
        model = self._model(request)
        skips = not request.HasField("skip_special_tokens") or request.skip_special_tokens
        detokenize = partial(model.detokenize, skip_special_tokens=skips)
        text = await asyncio.to_thread(detokenize, request.token_ids)
        return pb.DetokenizeResponse(text=text)

    async def list_models(
        self, request: pb.ListModelsRequest | None, context: grpc.aio.ServicerContext
    ) -> pb.ListModelsResponse:
        _checked(request)
        served = [
            pb.Model(
                name=model.name,
                max_model_len=model.max_model_len,
                vocab_size=model.card.vocab_size,
                ready=self._conductor.serves(model),
            )
            for model in self._conductor.models
        ]
        return pb.ListModelsResponse(models=served)

    def _model(self, request: pb.TokenizeRequest | pb.DetokenizeRequest) -> ServedModel:
        return self._conductor.models.find(request.model if request.HasField("model") else None)


def _options(config: RouterConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        *connection_options(config.request_timeout_s),
        # On by default, and then a second server binds the same port without a word.
        ("grpc.so_reuseport", int(config.share_ports)),
    ]


def _handlers(servicer: _Servicer) -> grpc.GenericRpcHandler:
    def unary(method: Callable[..., Awaitable[Any]], request: type) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            _at_the_edge(method), _parser(request), _serialize
        )

    generate = grpc.unary_stream_rpc_method_handler(
        _at_the_edge(servicer.generate), _parser(pb.GenerateRequest), _serialize
    )
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Generate": generate,
            "Tokenize": unary(servicer.tokenize, pb.TokenizeRequest),
            "Detokenize": unary(servicer.detokenize, pb.DetokenizeRequest),
            "ListModels": unary(servicer.list_models, pb.ListModelsRequest),
        },
    )


def _at_the_edge(
    method: Callable[[Any, grpc.aio.ServicerContext], Awaitable[Answer]],
) -> Callable[[Any, grpc.aio.ServicerContext], Awaitable[Answer]]:
    """Every error becomes a status that says what happened."""

    async def call(request: Any, context: grpc.aio.ServicerContext) -> Answer:
        try:
            return await method(request, context)
        except RouterError as error:
            failure = error
        except Exception as error:
            log.exception("a call failed: %s", type(request).__name__)
            failure = Internal(f"the router failed: {type(error).__name__}")
        return await abort(context, failure)

    return call


def _parser(request: type) -> Callable[[bytes], Any]:
    """gRPC would answer INTERNAL to bytes that are no message; they are the client's mistake."""

    def parse(serialized: bytes) -> Any:
        try:
            return request.FromString(serialized)  # type: ignore[attr-defined]
        except google.protobuf.message.DecodeError:
            return None

    return parse


def _serialize(message: google.protobuf.message.Message) -> bytes:
    return message.SerializeToString()


def _checked(request: Request | None) -> Request:
    if request is None:
        raise InvalidRequest("the request is no message of tandem.v1, or a string is not UTF-8")
    return request
