"""One way to hear an answer by either door, so that answers can be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx2
import msgspec
from google.rpc import error_details_pb2, status_pb2

from cluster.bundled import BUNDLED_MODEL
from cluster.running import RunningCluster
from router.text.model_card import read_model_card
from router.text.tokenizer import Tokenizer
from tests.system.api_cases import CHAT, Body, Case, as_grpc
from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc

TOKENIZER = Tokenizer(read_model_card(Path(BUNDLED_MODEL)))
GRPC_FINISH = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


class Choice(msgspec.Struct, kw_only=True):
    """One answer as a client puts it together."""

    text: str = ""
    tokens: list[int] = []
    prompt_tokens: list[int] = []
    logprobs: list[tuple[str, float, dict[str, float]]] = []
    """Of each token its text, its log-probability, and the likeliest ones by their texts."""
    calls: dict[int, dict[str, str]] = {}
    finish: str | None = None
    stop: str | int | None = None


class Heard(msgspec.Struct, kw_only=True):
    """Everything that does not differ from one asking to the next."""

    status: int
    choices: dict[int, Choice] = {}
    usage: dict[str, int] = {}
    begins: list[Any] = []
    """What the first message of each answer holds beside text and tokens."""
    error: str | None = None
    field: str | None = None


def hear_http(cluster: RunningCluster, case: Case, *, stream: bool) -> Heard:
    """With token ids, which text alone cannot stand for."""
    path, body = case
    asked = {**body, "return_token_ids": True}
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    response = httpx2.post(f"http://{cluster.addresses.http}{path}", json=asked, timeout=60)
    if response.status_code != 200:
        error = response.json()["error"]
        return Heard(status=response.status_code, error=error["message"], field=error["param"])
    messages = _events(response.text) if stream else [response.json()]
    heard = Heard(status=200)
    for message in messages:
        if message.get("usage"):
            heard.usage = _usage(message["usage"])
        for choice in message["choices"]:
            known = heard.choices.get(choice["index"])
            if known is None:
                known = heard.choices[choice["index"]] = Choice()
                heard.begins.append((choice["index"], choice.get("delta")))
            if "prompt_token_ids" in message:  # a chat has one prompt for all of its answers
                known.prompt_tokens += message["prompt_token_ids"]
            _add_http(known, choice, body)
    if path == CHAT:
        for known in heard.choices.values():
            known.prompt_tokens = heard.choices[0].prompt_tokens
    heard.begins.sort(key=lambda it: it[0])
    return heard


def _events(text: str) -> list[dict[str, Any]]:
    *events, done = text.strip().split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def _usage(body: dict[str, Any]) -> dict[str, int]:
    """Less what was cached: who has a prefix depends on what was asked before."""
    return {name: body[name] for name in ("prompt_tokens", "completion_tokens")}


def _add_http(known: Choice, choice: dict[str, Any], body: Body) -> None:
    said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
    known.text += said.get("content") or ""
    known.tokens += choice.get("token_ids", ())
    known.prompt_tokens += choice.get("prompt_token_ids", ())
    known.logprobs += _http_logprobs(choice.get("logprobs"))
    for number, call in enumerate(said.get("tool_calls", ())):
        _add_call(known, call.get("index", number), **call["function"])
    if choice["finish_reason"]:
        known.finish, known.stop = choice["finish_reason"], choice["stop_reason"]


def _add_call(known: Choice, index: int, name: str | None = None, arguments: str = "") -> None:
    call = known.calls.setdefault(index, {"name": "", "arguments": ""})
    call["name"] += name or ""
    call["arguments"] += arguments


def _http_logprobs(body: dict[str, Any] | None) -> list[tuple[str, float, dict[str, float]]]:
    if body is None:
        return []
    if "content" in body:
        return [
            (
                each["token"],
                each["logprob"],
                {top["token"]: top["logprob"] for top in each["top_logprobs"]}
                | {each["token"]: each["logprob"]},  # as /v1/completions has it
            )
            for each in body["content"]
        ]
    columns = (body["tokens"], body["token_logprobs"], body["top_logprobs"])
    return list(zip(*columns, strict=True))


def hear_grpc(cluster: RunningCluster, case: Case) -> Heard:
    """Several prompts are several calls, whose answers are numbered on."""
    heard = Heard(status=200)
    with grpc.insecure_channel(cluster.addresses.grpc) as channel:
        stub = rpc.InferenceStub(channel)
        for request in as_grpc(case):
            first = len(heard.choices)
            try:
                for message in stub.Generate(request, timeout=60):
                    _add_message(heard, message, first, request)
            except grpc.RpcError as error:
                return _refusal(error)
    heard.begins.sort(key=lambda it: it[0])
    return heard


def _add_message(
    heard: Heard, message: pb.GenerateResponse, first: int, request: pb.GenerateRequest
) -> None:
    index = first + message.index
    known = heard.choices.get(index)
    if known is None:
        known = heard.choices[index] = Choice()
        heard.begins.append((index, list(message.prompt_token_ids)))
    known.text += message.text
    known.tokens += message.token_ids
    known.prompt_tokens += message.prompt_token_ids
    known.logprobs += map(_grpc_logprob, message.logprobs)
    for call in message.tool_calls:
        _add_call(known, call.index, call.name, call.arguments_json)
    if message.finish_reason:
        known.finish = GRPC_FINISH[message.finish_reason]
        known.stop = _stop(message.matched_stop, request.stop_token_ids)
        for name in ("prompt_tokens", "completion_tokens"):
            heard.usage[name] = heard.usage.get(name, 0) + getattr(message.usage, name)


def _stop(matched: pb.MatchedStop, asked: Sequence[int]) -> str | int | None:
    """As HTTP tells it, which is silent about the model's own end."""
    if matched.WhichOneof("stop") == "text":
        return matched.text
    return matched.token_id if matched.token_id in asked else None


def _grpc_logprob(each: pb.TokenLogprob) -> tuple[str, float, dict[str, float]]:
    text = TOKENIZER.token_text
    return (
        text(each.token_id),
        each.logprob,
        {text(top.token_id): top.logprob for top in each.top} | {text(each.token_id): each.logprob},
    )


def _refusal(error: grpc.RpcError) -> Heard:
    """The status as HTTP has it, and the field from google.rpc's details."""
    details = status_pb2.Status.FromString(
        dict(error.trailing_metadata())["grpc-status-details-bin"]
    )
    blamed, field = error_details_pb2.BadRequest(), None
    for each in details.details:
        if each.Unpack(blamed):
            field = blamed.field_violations[0].field
    codes = {grpc.StatusCode.INVALID_ARGUMENT: 400}
    return Heard(status=codes.get(error.code(), 500), error=error.details(), field=field)
