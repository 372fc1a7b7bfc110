"""A router process as others see it: health, reflection, metrics, ports, drain."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from router.config import RouterConfig
from router.errors import StartError
from router.server import RouterServer
from runtime.listen import PortTaken, open_listener
from tests.router.conftest import Stage, StartStage
from tests.router.test_generate import generate
from tests.router.test_invalid_requests import failure, http_client
from tests.router.tiny_model import one_model
from wire import inference_pb2 as pb
from wire.identity import Role
from wire.messages import Cancel, Submit
from wire.reports import LinkReport, Traffic, WorkerState

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(stage: Stage, service: str = "tandem.v1.Inference") -> int:
    stub = health_pb2_grpc.HealthStub(stage.channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


async def test_health_follows_the_fleet(stage: Stage) -> None:
    stub = health_pb2_grpc.HealthStub(stage.channel)
    watch = aiter(stub.Watch(health_pb2.HealthCheckRequest(service="")))
    assert (await anext(watch)).status == NOT_SERVING
    worker = await stage.add("lone", Role.DECODE)
    assert (await anext(watch)).status == SERVING
    assert await health(stage) == SERVING
    worker.report(WorkerState.DRAINING)
    assert (await anext(watch)).status == NOT_SERVING
    worker.report(WorkerState.READY)
    assert (await anext(watch)).status == SERVING
    await worker.die()
    assert (await anext(watch)).status == NOT_SERVING


async def test_a_draining_worker_gets_nothing_new(stage: Stage) -> None:
    prefill, decode = await stage.add_pair([65, 66])
    spare = await stage.add("decode-1", Role.DECODE, script=[65, 66])
    decode.report(WorkerState.DRAINING)
    await stage.until(lambda: not stage.view(decode).ready)
    for nth in range(1, 6):
        await generate(stage)
        destination = (await prefill.hears(Submit, nth)).destination
        assert destination is not None
        assert destination.ref == spare.ref


async def test_reflection_lists_the_services(stage: Stage) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(stage.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = await anext(aiter(stub.ServerReflectionInfo(iter([request]))))
    names = {service.name for service in answer.list_services_response.service}
    assert {"tandem.v1.Inference", "grpc.health.v1.Health"} <= names


async def test_models_say_whether_they_are_ready(stage: Stage) -> None:
    (model,) = (await stage.stub.ListModels(pb.ListModelsRequest())).models
    assert (model.name, model.max_model_len, model.ready) == ("tiny", 256, False)
    await stage.add("lone", Role.DECODE, max_model_len=100)
    (model,) = (await stage.stub.ListModels(pb.ListModelsRequest())).models
    assert (model.max_model_len, model.ready) == (100, True)
    error = await failure(stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=100)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_worker_that_is_set_to_the_shortest_sequences_serves(stage: Stage) -> None:
    """Whoever fails, another can take any request; a worker without room is another thing."""
    await stage.add("short", Role.DECODE, max_model_len=100)
    await stage.add("long", Role.PREFILL, max_model_len=200)
    (model,) = (await stage.stub.ListModels(pb.ListModelsRequest())).models
    assert model.max_model_len == 100
    error = await failure(stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=100)))
    assert "more than the model's 100" in (error.details() or "")
    await stage.workers["short"].die()
    await stage.until(lambda: stage.model.max_model_len == 200)


async def test_metrics_count_requests_by_door_and_outcome(stage: Stage) -> None:
    await stage.add_pair([65, 66, 67])
    await generate(stage)
    await failure(stage.stub.Generate(pb.GenerateRequest(text="a", model="other")))
    async with http_client(stage) as http:
        await http.post("/v1/completions", json={"prompt": "a"})
        await http.post("/v1/completions", json={"prompt": ""})
        await http.post("/v1/completions", content=b"{")
        response = await http.get("/metrics")
        head = await http.head("/metrics")
    assert head.status_code == 200
    assert head.text == ""
    families = {each.name: each for each in text_string_to_metric_families(response.text)}
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["tandem_requests_total", "grpc", "tiny", "ok"] == 1
    assert samples["tandem_requests_total", "grpc", "", "not_found"] == 1
    assert samples["tandem_requests_total", "http", "tiny", "ok"] == 1
    assert samples["tandem_requests_total", "http", "", "invalid"] == 1
    assert samples["tandem_requests_total", "http", "tiny", "invalid"] == 1
    assert samples["tandem_requests_total", "http", "tiny", "internal"] == 0
    assert samples["tandem_generated_tokens_total", "tiny"] == 8
    assert samples["tandem_transfer_bytes_total",] == 2 * 384
    assert samples["tandem_time_to_first_token_seconds_count", "tiny"] == 2
    assert samples["tandem_queue_seconds_count", "tiny"] == 2
    assert samples["tandem_requests_in_flight", "tiny"] == 0
    assert samples["tandem_workers", "tiny", "prefill", "ready"] == 1
    assert samples["tandem_workers", "tiny", "decode", "draining"] == 0
    assert all(name.startswith(("tandem_", "process_")) for name in families)
    assert all(family.documentation for family in families.values())


async def test_metrics_tell_what_went_over_a_link_where_it_is_counted(stage: Stage) -> None:
    prefill, decode = await stage.add_pair([65])
    traffic = Traffic(num_writes=2, num_bytes=96, num_descriptors=3, post_s=0.25, fabric_s=0.5)
    for source, target, counted in ((prefill, decode, traffic), (decode, prefill, None)):
        link = LinkReport(
            destination=target.ref,
            latency_s=1e-5,
            bytes_per_s=1e9,
            transport="nixl",
            kind="network",
            traffic=counted,
        )
        source.send(link)
    await stage.until(lambda: len(stage.model.fleet.links()) == 2)
    async with http_client(stage) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    ends = '{destination="decode-0",source="prefill-0"}'
    assert [line for line in lines if line.startswith("tandem_link_") and "_total{" in line] == [
        f"tandem_link_writes_total{ends} 2.0",
        f"tandem_link_written_bytes_total{ends} 96.0",
        f"tandem_link_descriptors_total{ends} 3.0",
        f"tandem_link_post_seconds_total{ends} 0.25",
        f"tandem_link_fabric_seconds_total{ends} 0.5",
    ]


@pytest.mark.parametrize("key", ["grpc_port", "http_port", "fleet_port"])
async def test_a_taken_port_is_named_with_the_setting_to_change(
    start_stage: StartStage, model_dir: Path, key: str
) -> None:
    stage = await start_stage()
    door = key.removesuffix("_port")
    port = int(getattr(stage.addresses, door).rpartition(":")[2])
    second = RouterServer(RouterConfig(models=one_model(model_dir), **{key: port}))
    with pytest.raises(PortTaken, match=f"127.0.0.1:{port}.*{key}"):
        await second.start()


async def test_a_port_is_free_again_after_stop(start_stage: StartStage, model_dir: Path) -> None:
    stage = await start_stage()
    port = int(stage.addresses.http.rpartition(":")[2])
    await stage.close()
    again = await start_stage(http_port=port)
    assert again.addresses.http == f"127.0.0.1:{port}"
    with socket.create_connection(("127.0.0.1", port)):
        pass


def test_listeners_say_that_they_are_tcp() -> None:
    """Otherwise asyncio leaves Nagle's algorithm on, and each token may wait for 40 ms."""
    with open_listener("127.0.0.1", 0, key="port") as listener:
        assert listener.proto == socket.IPPROTO_TCP


async def test_a_drain_that_takes_too_long_says_so(stage: Stage) -> None:
    prefill, decode = await stage.add_pair([65, 66, 67])
    decode.hold_after = 2
    call = aiter(stage.stub.Generate(pb.GenerateRequest(text="a", max_tokens=9)))
    await anext(call)
    assert not await stage.server.drain(0.05)
    stop = asyncio.create_task(stage.server.stop())
    error = await failure(call)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    await prefill.hears(Cancel)
    await decode.hears(Cancel)
    await stop


async def test_the_process_says_where_it_serves_and_ends_at_a_signal(model_dir: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "router", "--model", str(model_dir), "--name", "mine"),
        *("--settings", '{"max_waiting": 3}'),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    addresses = json.loads(await process.stdout.readline())
    assert addresses["models"] == ["mine"]
    host, _, port = addresses["http"].rpartition(":")
    with socket.create_connection((host, int(port))):
        pass
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


async def test_a_process_that_cannot_start_says_why(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "router", "--model", str(tmp_path)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    assert process.returncode == 2
    assert stderr.startswith(b"error: ")
    assert b"tokenizer.json" in stderr


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=str(tmp_path / "nothing")):
        RouterServer(RouterConfig(models=one_model(tmp_path / "nothing")))
