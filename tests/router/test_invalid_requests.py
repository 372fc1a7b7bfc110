"""Everything that a client can get wrong is refused before a worker hears of it, and named."""

from __future__ import annotations

from typing import Any

import grpc
import httpx2
import pytest

from tests.router.conftest import Stage, StartStage
from tests.router.tiny_model import MAX_MODEL_LEN, VOCAB_SIZE
from wire import inference_pb2 as pb
from wire.messages import Submit

NAN = float("nan")


def sampling(**fields: Any) -> dict[str, Any]:
    return {"sampling": pb.Sampling(**fields)}


def chat(*messages: tuple[str, str]) -> dict[str, Any]:
    return {
        "text": None,
        "chat": pb.Chat(messages=[pb.ChatMessage(role=r, content=c) for r, c in messages]),
    }


def chat_with(**fields: Any) -> dict[str, Any]:
    given = chat(("user", "a"))
    return {**given, "chat": pb.Chat(messages=given["chat"].messages, **fields)}


def tools(*tools: pb.Tool) -> dict[str, Any]:
    return chat_with(tools=tools)


GRPC_CASES: list[tuple[dict[str, Any], str]] = [
    ({"text": None}, "prompt"),
    ({"text": ""}, "prompt"),
    ({"text": None, "token_ids": pb.TokenIds()}, "prompt"),
    ({"text": None, "token_ids": pb.TokenIds(ids=[1, VOCAB_SIZE])}, "prompt"),
    ({"text": "a " * MAX_MODEL_LEN}, "prompt"),
    (chat(), "messages"),
    (chat(("wizard", "hi")), "messages"),
    (chat(("user", "a " * MAX_MODEL_LEN)), "messages"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": MAX_MODEL_LEN}, "max_tokens"),
    ({"max_tokens": 3, "min_tokens": 4}, "min_tokens"),
    ({"min_tokens": 4000}, "min_tokens"),
    (sampling(temperature=-0.1), "temperature"),
    (sampling(temperature=2.1), "temperature"),
    (sampling(temperature=NAN), "temperature"),
    (sampling(top_p=0), "top_p"),
    (sampling(top_p=1.1), "top_p"),
    (sampling(top_p=NAN), "top_p"),
    (sampling(min_p=-0.1), "min_p"),
    (sampling(min_p=1.1), "min_p"),
    (sampling(repetition_penalty=0), "repetition_penalty"),
    (sampling(repetition_penalty=11), "repetition_penalty"),
    (sampling(presence_penalty=-3), "presence_penalty"),
    (sampling(frequency_penalty=3), "frequency_penalty"),
    ({"logprobs": 21}, "logprobs"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["a" * 257]}, "stop"),
    ({"stop_token_ids": [VOCAB_SIZE]}, "stop_token_ids"),
    ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
    ({"cache_salt": ""}, "cache_salt"),
    ({"cache_salt": "a" * 1025}, "cache_salt"),
    ({"request_id": ""}, "request_id"),
    ({"request_id": "a\nb"}, "request_id"),
    ({"n": 65}, "n"),
    ({"priority": -(2**31)} | sampling(logit_bias={VOCAB_SIZE: 1}), "logit_bias"),
    (sampling(logit_bias={1: NAN}), "logit_bias"),
    (sampling(allowed_tokens=pb.TokenIds()), "allowed_token_ids"),
    ({"slo": pb.Slo(tpot_s=-1)}, "slo.tpot_s"),
    ({"slo": pb.Slo(ttft_s=float("inf"))}, "slo.ttft_s"),
    ({"slo": pb.Slo(ttft_s=float("nan"))}, "slo.ttft_s"),
    ({"constraint": pb.Constraint()}, "constraint"),
    ({"tool_choice": pb.ToolChoice(mode=pb.TOOL_MODE_AUTO)}, "tool_choice"),
    ({"tool_choice": pb.ToolChoice(mode=pb.TOOL_MODE_NAMED)}, "tool_choice"),
    (tools(pb.Tool(name="f", parameters_json="[")), "tools[0].parameters_json"),
    (chat_with(template_args_json="1"), "template_args_json"),
    (chat_with(continue_final_message=True, add_generation_prompt=True), "continue_final_message"),
]


async def test_every_invalid_field_is_named_over_grpc(stage: Stage) -> None:
    prefill, _ = await stage.add_pair([65])
    for fields, field in GRPC_CASES:
        request = pb.GenerateRequest(**{"text": "a", **fields})
        error = await failure(stage.stub.Generate(request))
        what = f"{str(fields)[:60]}: {error.details()}"
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, what
        assert ("tandem-field", field) in tuple(error.trailing_metadata()), what
        assert error.details(), what
    assert prefill.count(Submit) == 0


async def test_an_unknown_model_is_not_found_over_grpc(stage: Stage) -> None:
    for call in (
        stage.stub.Generate(pb.GenerateRequest(text="a", model="other")),
        stage.stub.Tokenize(pb.TokenizeRequest(text="a", model="other")),
        stage.stub.Detokenize(pb.DetokenizeRequest(token_ids=[1], model="other")),
    ):
        error = await failure(call)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert "'tiny'" in str(error.details())


@pytest.mark.parametrize("letter", ["x", "é", "😀"])
async def test_an_error_that_quotes_much_keeps_its_status_over_grpc(
    stage: Stage, letter: str
) -> None:
    request = pb.GenerateRequest(text="a", model=letter * 20_000)
    error = await failure(stage.stub.Generate(request))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert str(error.details()).endswith("…")


async def test_bytes_that_are_no_message_are_the_clients_mistake(stage: Stage) -> None:
    broken_text = b"\x1a\x02\xc3\x28"  # field 3, two bytes that are no UTF-8
    for method in ("Generate", "Tokenize", "Detokenize", "ListModels"):
        path = f"/tandem.v1.Inference/{method}"
        kind = stage.channel.unary_stream if method == "Generate" else stage.channel.unary_unary
        error = await failure(kind(path)(b"\xff\xff" if method != "Generate" else broken_text))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_prompt_larger_than_the_limit_is_refused_over_grpc(
    start_stage: StartStage,
) -> None:
    stage = await start_stage(max_message_bytes=1000)
    error = await failure(stage.stub.Generate(pb.GenerateRequest(text="a" * 2000)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (read_all(call) if hasattr(call, "__aiter__") else call)
    return caught.value


async def read_all(call: Any) -> list[Any]:
    return [response async for response in call]


MESSAGES: Any = [{"role": "user", "content": "a"}]
TOOL = {"type": "function", "function": {"name": "f"}}
COMPLETION_CASES: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["a", ""]}, "prompt"),
    ({"prompt": ["a", [1]]}, "prompt"),
    ({"prompt": ["a"] * 200, "n": 2}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": [1, -1]}, "prompt"),
    ({"prompt": [10**30]}, "prompt"),
    ({"prompt": [1.5]}, "prompt[0]"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": "a " * MAX_MODEL_LEN}, "prompt"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "7"}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": MAX_MODEL_LEN}, "max_tokens"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"seed": 2**63}, "seed"),
    ({"n": 65}, "n"),
    ({"n": 0}, "n"),
    ({"best_of": 2}, "best_of"),
    ({"suffix": "b"}, "suffix"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"five": 1}}, "logit_bias"),
    ({"logit_bias": {str(VOCAB_SIZE): 1}}, "logit_bias"),
    ({"allowed_token_ids": []}, "allowed_token_ids"),
    ({"allowed_token_ids": [VOCAB_SIZE]}, "allowed_token_ids"),
    ({"allowed_token_ids": [9], "stop_token_ids": [9], "min_tokens": 1}, "min_tokens"),
    ({"bad_words": [""]}, "bad_words"),
    ({"bad_words": ["a"] * 129}, "bad_words"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"stream_interval": 0}, "stream_interval"),
    ({"priority": 2**31}, "priority"),
    ({"slo": {"ttft_s": 0}}, "slo.ttft_s"),
    ({"slo": {"tpot_s": 1e300}}, "slo.tpot_s"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"regex": "a", "structured_outputs": {"regex": "b"}}, "regex"),
    ({"regex": "a" * 300_000}, "regex"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": [1]}, "stop[0]"),
    ({"stop": ""}, "stop"),
    ({"stop_token_ids": [VOCAB_SIZE]}, "stop_token_ids"),
    ({"cache_salt": ""}, "cache_salt"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": 3}}, "stream_options.include_usage"),
]
CHAT_CASES: list[tuple[dict[str, Any], str]] = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"content": "a"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ({"messages": [{"role": "wizard", "content": "a"}]}, "messages"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content",
    ),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0]"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{**TOOL, "type": 1}]}]},
        "messages[0].tool_calls[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "text": "a"}]}]},
        "messages[0].content",
    ),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"guided_json": {}, "guided_regex": "a"}, "guided_regex"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"tools": [{}]}, "tools[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {"parameters": {}}}]}, "tools[0].function"),
    ({"tools": [TOOL] * 129}, "tools"),
    ({"tools": [{**TOOL, "extra": "a" * 300_000}]}, "tools"),
    ({"tools": [TOOL], "tool_choice": "some"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "no"}}},
        "tool_choice",
    ),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"functions": [{}]}, "functions"),
    ({"chat_template": "x"}, "chat_template"),
    (
        {"add_generation_prompt": True, "continue_final_message": True},
        "continue_final_message",
    ),
]


async def test_every_invalid_field_is_named_over_http(stage: Stage) -> None:
    prefill, _ = await stage.add_pair([65])
    cases = [("/v1/completions", {"prompt": "a"}, case) for case in COMPLETION_CASES]
    cases += [("/v1/chat/completions", {"messages": MESSAGES}, case) for case in CHAT_CASES]
    async with http_client(stage) as http:
        for path, valid, (fields, field) in cases:
            response = await http.post(path, json={"model": "tiny", **valid, **fields})
            what = f"{path} {str(fields)[:60]}: {response.text}"
            assert response.status_code == 400, what
            error = response.json()["error"]
            assert error["param"] == field, what
            assert error["type"] == "invalid_request_error", what
            assert error["message"], what
    assert prefill.count(Submit) == 0


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


BROKEN_BODIES = [
    b"",
    b"{",
    b"[]",
    b'"text"',
    b"null",
    b'{"prompt": "\xff"}',
    b'{"prompt": "\xed\xa0\x80"}',
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "\\ud800x"}',
    b'{"prompt": "\\udc00"}',
    b'{"prompt": "a"} trailing',
    b'{"prompt": "a", "temperature": NaN}',
    b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"prompt": "a", "unknown": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"prompt": "a", "guided_json": ' + nested(5000).encode() + b"}",
]


async def test_bodies_that_are_no_json_text_are_refused(stage: Stage) -> None:
    async with http_client(stage) as http:
        for body in BROKEN_BODIES:
            response = await http.post("/v1/completions", content=body)
            assert response.status_code == 400, body[:40]
            assert response.json()["error"]["type"] == "invalid_request_error"


async def test_no_depth_of_json_is_a_mistake_of_ours(stage: Stage) -> None:
    bodies = [
        ("/v1/chat/completions", '{"messages": [{"role": "user", "content": "a"}], "n": 0, %s}'),
        ("/tokenize", '{"messages": [], %s}'),
    ]
    fields = ['"chat_template_kwargs": %s', '"tools": [{"type": "function", "function": %s}]']
    async with http_client(stage) as http:
        for depth in range(900, 1000, 5):
            for path, body in bodies:
                for field in fields:
                    deep = '{"name": "f", "parameters": %s}' % nested(depth)  # noqa: UP031
                    response = await http.post(path, content=body % (field % deep))
                    assert response.status_code == 400, f"{path} {field}: {depth}"


async def test_arguments_nested_too_deeply_are_the_clients_mistake(stage: Stage) -> None:
    call = {"function": {"name": "f", "arguments": nested(50_000)}}
    message: dict[str, Any] = {"role": "assistant", "tool_calls": [call]}
    async with http_client(stage) as http:
        for path in ("/v1/chat/completions", "/tokenize"):
            response = await http.post(path, json={"messages": [message]})
            assert response.status_code == 400
            assert "deep" in response.json()["error"]["message"]
    deep = pb.Chat(messages=[pb.ChatMessage(role="user")], template_args_json=nested(50_000))
    error = await failure(stage.stub.Generate(pb.GenerateRequest(chat=deep)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_unknown_models_paths_and_methods_look_like_openais(stage: Stage) -> None:
    async with http_client(stage) as http:
        model = await http.post("/v1/completions", json={"model": "other", "prompt": "a"})
        listed = await http.get("/v1/models/other")
        path = await http.get("/v1/nothing")
        method = await http.get("/v1/completions")
    assert [r.status_code for r in (model, listed, path, method)] == [404, 404, 404, 405]
    assert model.json()["error"] == listed.json()["error"]
    assert model.json()["error"]["code"] == "model_not_found"
    assert model.json()["error"]["param"] == "model"
    assert path.json()["error"]["code"] == "unknown_url"
    assert "/v1/nothing" in path.json()["error"]["message"]
    assert method.json()["error"]["type"] == "invalid_request_error"


async def test_a_body_over_the_limit_is_refused_before_it_is_read(
    start_stage: StartStage,
) -> None:
    stage = await start_stage(max_body_bytes=100_000)

    async def pieces(number: int) -> Any:
        for _ in range(number):
            yield b" " * 100_000

    async with http_client(stage) as http:
        declared = await http.post("/v1/completions", content=b" " * 100_001)
        assert declared.status_code == 413
        assert declared.json()["error"]["code"] == "request_too_large"
        chunked = await http.post("/v1/completions", content=pieces(20))
        assert chunked.status_code == 413
        small = await http.post("/v1/completions", content=b" " * 100_000)
        assert small.status_code == 400


def http_client(stage: Stage) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=f"http://{stage.addresses.http}", trust_env=False, timeout=60
    )
