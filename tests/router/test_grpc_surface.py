"""The gRPC contract: what tandem.v1 can say beyond a prompt and its sampling."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tokenizers import Tokenizer

from tests.router.conftest import Stage, StartStage
from tests.router.test_generate import generate, ids, ids_of, text_of
from tests.router.test_invalid_requests import failure
from tests.router.tiny_model import BOS, EOS, USER
from wire import inference_pb2 as pb
from wire.identity import Role
from wire.inference_pb2_grpc import InferenceStub
from wire.messages import Submit
from wire.sampling import TokenRules

TEXT = "two wheels and two riders"
BUF = os.environ.get("BUF") or shutil.which("buf")
CONTRACT = Path(__file__).parents[2] / "proto"


async def test_tools_calls_and_results_reach_the_model(stage: Stage, backend: Tokenizer) -> None:
    prefill, _ = await stage.add_pair([65])
    chat = pb.Chat(
        messages=[
            pb.ChatMessage(role="user", content="a"),
            pb.ChatMessage(
                role="assistant",
                tool_calls=[pb.ToolCall(id="1", name="add", arguments_json='{"a": 1}')],
            ),
            pb.ChatMessage(role="tool", content="3", tool_call_id="1", name="add"),
        ],
        tools=[pb.Tool(name="add", description="adds", parameters_json='{"type": "object"}')],
    )
    none = pb.ToolChoice(mode=pb.TOOL_MODE_NONE)
    await generate(stage, text=None, chat=chat)
    await generate(stage, text=None, chat=chat, tool_choice=none)
    function = {"name": "add", "description": "adds", "parameters": {"type": "object"}}
    shown = f"<|system|>{json.dumps([{'type': 'function', 'function': function}])}<|eos|>"
    rest = '<|user|>a<|eos|><|assistant|>add({"a": 1})<|eos|><|tool|>3<|eos|><|assistant|>'
    for nth, tools in enumerate((shown, ""), start=1):
        text = backend.decode((await prefill.hears(Submit, nth)).tokens, skip_special_tokens=False)
        assert text == "<|bos|>" + tools + rest


async def test_rules_for_tokens_reach_the_worker(stage: Stage, backend: Tokenizer) -> None:
    prefill, _ = await stage.add_pair([65])
    sampling = pb.Sampling(
        logit_bias={9: -100}, allowed_tokens=pb.TokenIds(ids=[9, 11]), bad_words=["fox"]
    )
    await generate(stage, sampling=sampling)
    banned = tuple(ids(backend, "fox")), tuple(ids(backend, " fox"))
    rules = (await prefill.hears(Submit)).sampling.rules
    assert rules == TokenRules(((9, -100.0),), (9, 11), banned)


async def test_the_text_is_shown_as_the_client_wants(stage: Stage, backend: Tokenizer) -> None:
    await stage.add_pair([*ids(backend, "two"), USER, *ids(backend, "wheels")])
    asked = {"echo": True, "return_prompt_token_ids": True, "skip_special_tokens": False}
    responses = await generate(stage, text="a dog", stop=["ee"], include_stop=True, **asked)
    assert text_of(responses) == "a dogtwo<|user|>whee"
    prompt = [BOS, *ids(backend, "a dog")]
    assert [list(each.prompt_token_ids) for each in responses if each.prompt_token_ids] == [prompt]


async def test_prompts_are_cut_and_begun_as_the_client_wants(
    stage: Stage, backend: Tokenizer
) -> None:
    prefill, _ = await stage.add_pair([65])
    await generate(stage, text="the quick fox", truncate_prompt_tokens=2)
    await generate(stage, text="the quick fox", add_special_tokens=False)
    tokens = tuple(ids(backend, "the quick fox"))
    assert (await prefill.hears(Submit)).tokens == tokens[-2:]
    assert (await prefill.hears(Submit, 2)).tokens == tokens


async def test_a_stream_interval_makes_fewer_messages(stage: Stage, backend: Tokenizer) -> None:
    script = ids(backend, "abcdefghijklmnopqrstuvw")
    await stage.add_pair(script)
    responses = await generate(stage, stream_interval=10)
    assert ids_of(responses) == [*script, EOS]
    assert len(responses) <= 2 + len(script) // 10 + 1


async def test_special_tokens_of_a_text_can_be_kept(stage: Stage) -> None:
    request = pb.TokenizeRequest(text="a<|eos|>b", add_special_tokens=False)
    tokens = (await stage.stub.Tokenize(request)).token_ids
    for skips, text in ((True, "ab"), (False, "a<|eos|>b")):
        asked = pb.DetokenizeRequest(token_ids=tokens, skip_special_tokens=skips)
        assert (await stage.stub.Detokenize(asked)).text == text


async def test_the_text_of_each_token_can_be_told(stage: Stage, backend: Tokenizer) -> None:
    asked = pb.TokenizeRequest(text="the fox", add_special_tokens=False, return_token_texts=True)
    answer = await stage.stub.Tokenize(asked)
    assert list(answer.token_ids) == ids(backend, "the fox")
    assert "".join(answer.token_texts) == "the fox"
    assert len(answer.token_texts) == len(answer.token_ids)
    assert not (await stage.stub.Tokenize(pb.TokenizeRequest(text="the fox"))).token_texts


async def test_errors_carry_details_for_machines(start_stage: StartStage) -> None:
    stage = await start_stage(max_waiting=0)
    full = details(await failure(stage.call(text="a")))
    retry, info = error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
    assert full.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert any(each.Unpack(retry) for each in full.details)
    assert any(each.Unpack(info) for each in full.details)
    assert retry.retry_delay.ToMilliseconds() > 0
    assert info.domain == "tandem"


def details(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    metadata = dict(error.trailing_metadata())
    return status_pb2.Status.FromString(metadata["grpc-status-details-bin"])


async def test_a_message_that_grows_when_it_is_unpacked_is_too_large(stage: Stage) -> None:
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(
        stage.addresses.grpc, options=options, compression=grpc.Compression.Gzip
    ) as channel:
        call = InferenceStub(channel).Tokenize(pb.TokenizeRequest(text=" " * 8_000_000))
        refused = await failure(call)
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in refused.details()


async def test_health_is_told_for_the_server_and_for_each_service(stage: Stage) -> None:
    health = health_pb2_grpc.HealthStub(stage.channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ("", "tandem.v1.Inference"):
        request = health_pb2.HealthCheckRequest(service=name)
        assert (await health.Check(request)).status != serving
    await stage.add("lone", Role.DECODE)
    for name in ("", "tandem.v1.Inference"):
        request = health_pb2.HealthCheckRequest(service=name)
        async for answer in health.Watch(request):
            if answer.status == serving:
                break


@pytest.mark.parametrize("on", [True, False])
async def test_the_contract_is_told_where_the_operator_wants(
    start_stage: StartStage, on: bool
) -> None:
    stage = await start_stage(grpc_reflection=on)
    stub = reflection_pb2_grpc.ServerReflectionStub(stage.channel)
    call = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    if not on:
        assert (await failure(call)).code() is grpc.StatusCode.UNIMPLEMENTED
        return
    names = [each.name async for answer in call for each in answer.list_services_response.service]
    assert "tandem.v1.Inference" in names


@pytest.mark.skipif(BUF is None, reason="buf is not installed")
def test_the_contract_keeps_bufs_rules() -> None:
    assert BUF is not None
    done = subprocess.run([BUF, "lint"], cwd=CONTRACT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(BUF is None, reason="buf is not installed")
async def test_buf_curl_speaks_to_the_door_by_reflection(stage: Stage, backend: Tokenizer) -> None:
    await stage.add_pair(ids(backend, TEXT))
    assert BUF is not None
    url = f"http://{stage.addresses.grpc}/tandem.v1.Inference/Generate"
    flags = ["--http2-prior-knowledge", "--protocol", "grpc"]
    process = await asyncio.create_subprocess_exec(
        BUF, "curl", *flags, "-d", '{"text": "a", "maxTokens": 99, "n": 2}', url,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0
    decoder, texts = json.JSONDecoder(), {0: "", 1: ""}
    rest = output.decode().strip()
    while rest:
        message, end = decoder.raw_decode(rest)
        texts[message.get("index", 0)] += message.get("text", "")
        rest = rest[end:].strip()
    assert texts == {0: TEXT, 1: TEXT}
