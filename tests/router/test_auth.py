"""Keys at both doors: who is let in, to what, how often, and what workers hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from starlette.types import Message

from router.access.keys import generate_key
from router.errors import TooLarge
from router.http.asgi import read_body
from tests.router.conftest import Stage, StartStage
from tests.router.test_invalid_requests import failure, http_client
from wire import inference_pb2 as pb
from wire.identity import Role
from wire.messages import Submit

ROUTES = [
    "/v1/models",
    "/v1/models/tiny",
    "/metrics",
    "/version",
    "/load",
    "/status",
    "/nothing",
    "//health",
]
POSTS = ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/health/"]


class Keyed:
    """A router that asks for keys, with a worker; `keys` by name."""

    def __init__(self, stage: Stage, keys: dict[str, str]) -> None:
        self.stage = stage
        self._keys = keys

    def header(self, name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self._keys[name]}"}

    def call(self, name: str, **fields: Any) -> Any:
        request = pb.GenerateRequest(**{"text": "a", "max_tokens": 9, **fields})
        return self.stage.stub.Generate(request, metadata=tuple(self.header(name).items()))

    async def post(self, name: str | None, path: str = "/v1/completions", **body: Any) -> Any:
        headers = {} if name is None else self.header(name)
        async with http_client(self.stage) as http:
            return await http.post(path, json={"prompt": "a", **body}, headers=headers)


MakeKeyed = Callable[..., Awaitable[Keyed]]


@pytest.fixture
def make_keyed(start_stage: StartStage, tmp_path: Path) -> MakeKeyed:
    async def make(config: dict[str, Any] | None = None, **entries: str) -> Keyed:
        drawn = {name: generate_key() for name in entries}
        lines = [f"{name}: {{hash: '{drawn[name][1]}'{entries[name]}}}" for name in entries]
        path = tmp_path / "keys.yaml"
        path.write_text("\n".join(lines))
        stage = await start_stage(keys_file=str(path), **(config or {}))
        await stage.add("lone", Role.DECODE, script=[65, 66, 67])
        return Keyed(stage, {name: key for name, (key, _) in drawn.items()})

    return make


def details_of(error: grpc.aio.AioRpcError) -> list[Any]:
    """What google.rpc says of it."""
    metadata = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    kinds = {
        f"type.googleapis.com/google.rpc.{name}": getattr(error_details_pb2, name)
        for name in ("ErrorInfo", "RetryInfo", "BadRequest")
    }
    return [kinds[packed.type_url].FromString(packed.value) for packed in status.details]


async def test_every_route_but_health_asks_for_a_key(make_keyed: MakeKeyed) -> None:
    keyed = await make_keyed(alice="")
    async with http_client(keyed.stage) as http:
        for response in (
            *[await http.get(path) for path in ROUTES],
            *[await http.post(path, json={"prompt": "a"}) for path in POSTS],
            await http.get("/v1/models", headers={"authorization": "Bearer guess"}),
        ):
            assert response.status_code == 401, response.url
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["x-request-id"]
            assert response.json()["error"]["code"] == "invalid_api_key"
        for path in ("/health", "/ping"):
            assert (await http.get(path)).status_code == 200
        for path in ("/v1/models", "/version"):
            assert (await http.get(path, headers=keyed.header("alice"))).status_code == 200
    assert (await keyed.post("alice")).json()["usage"]["completion_tokens"] == 4


async def test_a_refused_body_is_not_waited_for(make_keyed: MakeKeyed) -> None:
    keyed = await make_keyed(alice="")

    async def endless() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    async with http_client(keyed.stage) as http:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await http.post("/v1/completions", content=endless())
        reader, writer = await asyncio.open_connection(*address_of(keyed.stage))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 99\r\n\r\n")
        async with asyncio.timeout(60):
            assert (await reader.readline()).startswith(b"HTTP/1.1 401")
        writer.close()


def address_of(stage: Stage) -> tuple[str, int]:
    host, _, port = stage.addresses.http.rpartition(":")
    return host, int(port)


async def test_a_body_that_does_not_arrive_in_time_is_given_up(start_stage: StartStage) -> None:
    stage = await start_stage(body_timeout_s=0.05)
    for path in (b"/v1/completions", b"/tokenize"):
        reader, writer = await asyncio.open_connection(*address_of(stage))
        writer.write(b"POST " + path + b" HTTP/1.1\r\nhost: a\r\ncontent-length: 99\r\n\r\n{")
        async with asyncio.timeout(60):
            answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not arrive within 0.05 s" in answer


async def test_a_body_of_unknown_length_is_read_up_to_the_limit_and_no_further() -> None:
    num_read = 0

    async def receive() -> Message:
        nonlocal num_read
        num_read += 1
        return {"type": "http.request", "body": b"a" * 100, "more_body": True}

    with pytest.raises(TooLarge, match="larger than 1000 bytes"):
        await read_body({"type": "http", "headers": []}, receive, 1000)
    assert num_read == 11


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
async def test_a_chunked_body_without_end_is_refused(start_stage: StartStage, path: str) -> None:
    stage = await start_stage(max_body_bytes=1000)
    reader, writer = await asyncio.open_connection(*address_of(stage))
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    writer.write(head.encode() + 20 * (b"64\r\n" + b"a" * 100 + b"\r\n"))
    async with asyncio.timeout(60):
        assert (await reader.read()).startswith(b"HTTP/1.1 413")
    writer.close()


async def test_every_call_but_health_asks_for_a_key(make_keyed: MakeKeyed) -> None:
    keyed = await make_keyed(alice="")
    stage = keyed.stage
    reflect = reflection_pb2_grpc.ServerReflectionStub(stage.channel).ServerReflectionInfo
    listing = reflection_pb2.ServerReflectionRequest(list_services="")
    for call in (
        stage.call(text="a"),
        stage.stub.ListModels(pb.ListModelsRequest()),
        stage.stub.Tokenize(pb.TokenizeRequest(text="a")),
        stage.stub.Detokenize(pb.DetokenizeRequest()),
        stage.stub.Generate(
            pb.GenerateRequest(text="a"), metadata=(("authorization", "Bearer x"),)
        ),
        reflect(iter([listing])),
    ):
        error = await failure(call)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    (reason,) = details_of(error)
    assert (reason.reason, reason.domain) == ("INVALID_API_KEY", "tandem")
    check = health_pb2.HealthCheckRequest(service="")
    assert (await health_pb2_grpc.HealthStub(stage.channel).Check(check)).status == 1
    assert [message async for message in keyed.call("alice")]


async def test_a_rate_is_told_with_the_time_to_come_back(make_keyed: MakeKeyed) -> None:
    keyed = await make_keyed(alice=", requests_per_minute: 2", bob="")
    assert (await keyed.post("alice")).status_code == 200
    assert [message async for message in keyed.call("alice")]
    response = await keyed.post("alice")
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    assert 0 < int(response.headers["retry-after"]) <= 30
    error = await failure(keyed.call("alice"))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = [each for each in details_of(error) if isinstance(each, error_details_pb2.RetryInfo)]
    assert 0 < retry[0].retry_delay.ToTimedelta().total_seconds() <= 30
    assert (await keyed.post("bob")).status_code == 200
    async with http_client(keyed.stage) as http:
        models = await http.get("/v1/models", headers=keyed.header("alice"))
    assert models.status_code == 200, "what computes nothing is not counted"


async def test_requests_under_way_are_counted_until_they_end_or_their_client_goes(
    make_keyed: MakeKeyed,
) -> None:
    keyed = await make_keyed(alice=", concurrency: 1")
    worker = keyed.stage.workers["lone"]
    worker.hold_after = 1
    call = keyed.call("alice")
    await worker.hears(Submit)
    response = await keyed.post("alice")
    assert response.status_code == 429
    assert "1 requests of this key are running" in response.json()["error"]["message"]
    call.cancel()
    worker.hold_after = None
    async with asyncio.timeout(60):
        while (await keyed.post("alice")).status_code == 429:
            pass


async def test_tokens_are_charged_as_they_come(make_keyed: MakeKeyed) -> None:
    keyed = await make_keyed(alice=", tokens_per_minute: 6")
    first = await keyed.post("alice")  # 2 or so in, 4 out
    used = first.json()["usage"]["total_tokens"]
    assert used >= 6
    response = await keyed.post("alice")
    assert response.status_code == 429
    assert "6 tokens per minute" in response.json()["error"]["message"]


async def test_several_prompts_are_charged_together_or_not_at_all(make_keyed: MakeKeyed) -> None:
    keyed = await make_keyed(alice=", tokens_per_minute: 100")
    assert (await keyed.post("alice", prompt=[5] * 40, max_tokens=1)).status_code == 200
    refused = await keyed.post("alice", prompt=[[5] * 45, [5] * 50], max_tokens=1)
    assert refused.status_code == 429
    # All 95 must be there, of which 59 were: 36 come in 22 s, some of them since.
    assert 1 <= int(refused.headers["retry-after"]) <= 22
    assert (await keyed.post("alice", prompt=[5] * 50, max_tokens=1)).status_code == 200


async def test_many_prompts_run_into_debt_as_one_long_one_does(make_keyed: MakeKeyed) -> None:
    keyed = await make_keyed(alice=", tokens_per_minute: 100")
    assert (await keyed.post("alice", prompt=[[5] * 60] * 3, max_tokens=1)).status_code == 200
    assert (await keyed.post("alice")).status_code == 429


async def test_workers_hear_whose_request_it_is(make_keyed: MakeKeyed) -> None:
    shared = ", share_group: team"
    entries = {"alice": ", max_priority: 3", "bob": "", "carol": shared, "dave": shared}
    keyed = await make_keyed(**entries)
    worker = keyed.stage.workers["lone"]
    names = ["alice", "bob", "carol", "dave"]
    for name in names:
        await keyed.post(name, cache_salt="mine")
        assert [message async for message in keyed.call(name)]
    submits = [message for message in worker.received if isinstance(message, Submit)]
    tenants = [submit.traits.tenant for submit in submits]
    assert tenants == [name for name in names for _ in range(2)]
    assert [submit.traits.priority for submit in submits[::2]] == [3, 0, 0, 0]
    salts = [submit.traits.cache_salt for submit in submits]
    alice, alice_own, bob, bob_own, carol, carol_own, dave, dave_own = (
        *salts[1::-1],
        *salts[3:1:-1],
        *salts[5:3:-1],
        *salts[7:5:-1],
    )
    assert (carol, carol_own) == (dave, dave_own)
    assert len({alice, alice_own, bob, bob_own, carol, carol_own}) == 6
    assert b"" not in salts


@pytest.mark.parametrize("several", [{"n": 3}, {"prompt": ["a", "b", "c"]}])
async def test_every_answer_of_a_request_is_its_tenant_s_and_the_request_counts_once(
    make_keyed: MakeKeyed, several: dict[str, Any]
) -> None:
    keyed = await make_keyed(alice=", requests_per_minute: 1, concurrency: 1")
    response = await keyed.post("alice", **several)
    assert len(response.json()["choices"]) == 3
    worker = keyed.stage.workers["lone"]
    submits = [message for message in worker.received if isinstance(message, Submit)]
    assert [submit.traits.tenant for submit in submits] == ["alice"] * 3
    assert len({submit.traits.cache_salt for submit in submits}) == 1
    assert (await keyed.post("alice")).status_code == 429


async def test_a_more_urgent_priority_than_the_key_s_is_refused(make_keyed: MakeKeyed) -> None:
    keyed = await make_keyed(alice="")
    response = await keyed.post("alice", priority=-1)
    assert response.status_code == 403
    assert response.json()["error"]["param"] == "priority"
    assert keyed.stage.workers["lone"].count(Submit) == 0


async def test_what_tells_of_all_clients_needs_an_admin_s_key(make_keyed: MakeKeyed) -> None:
    keyed = await make_keyed(alice=", admin: true", bob="")
    async with http_client(keyed.stage) as http:
        for path in ("/metrics", "/load", "/status"):
            assert (await http.get(path, headers=keyed.header("bob"))).status_code == 403
            assert (await http.get(path, headers=keyed.header("alice"))).status_code == 200


async def test_refusals_are_counted_where_an_answer_was_asked_for(make_keyed: MakeKeyed) -> None:
    keyed = await make_keyed(alice=", admin: true")
    await keyed.post(None)
    await failure(keyed.stage.call(text="a"))
    await failure(keyed.stage.stub.Tokenize(pb.TokenizeRequest(text="a")))
    async with http_client(keyed.stage) as http:
        await http.get("/v1/models")
        await http.post("/tokenize", json={"prompt": "a"})
    async with http_client(keyed.stage) as http:
        text = (await http.get("/metrics", headers=keyed.header("alice"))).text
    assert 'tandem_requests_total{door="http",model="",outcome="unauthenticated"} 1.0' in text
    assert 'tandem_requests_total{door="grpc",model="",outcome="unauthenticated"} 1.0' in text


async def test_a_new_key_needs_no_restart(make_keyed: MakeKeyed, tmp_path: Path) -> None:
    keyed = await make_keyed(alice="")
    key, hashed = generate_key()
    (tmp_path / "keys.yaml").write_text(f"alice: {hashed}")
    header = {"authorization": f"Bearer {key}"}
    async with http_client(keyed.stage) as http, asyncio.timeout(60):
        while (await http.get("/version", headers=header)).status_code == 401:
            pass
        old = await http.get("/version", headers=keyed.header("alice"))
    assert old.status_code == 401


def admin_client(stage: Stage) -> httpx2.AsyncClient:
    base_url = f"http://{stage.addresses.admin}"
    return httpx2.AsyncClient(base_url=base_url, trust_env=False, timeout=60)


async def test_metrics_move_to_a_port_of_their_own(make_keyed: MakeKeyed) -> None:
    keyed = await make_keyed(config={"admin_port": 0}, alice=", admin: true")
    async with http_client(keyed.stage) as http, admin_client(keyed.stage) as admin:
        for path in ("/metrics", "/load", "/status"):
            hidden = await http.get(path, headers=keyed.header("alice"))
            assert hidden.status_code == 404
            assert (await admin.get(path)).status_code == 200
        assert (await admin.get("/health")).status_code == 200
        for path in ("/v1/models", "/v1/completions"):
            assert (await admin.post(path, json={"prompt": "a"})).status_code == 404


async def test_beyond_loopback_the_admin_port_asks_for_an_admin_s_key(
    make_keyed: MakeKeyed,
) -> None:
    config = {"admin_port": 0, "admin_host": "0.0.0.0"}
    keyed = await make_keyed(config=config, alice=", admin: true", bob="")
    _, _, port = (keyed.stage.addresses.admin or "").rpartition(":")
    base_url = f"http://127.0.0.1:{port}"
    async with httpx2.AsyncClient(base_url=base_url, trust_env=False, timeout=60) as admin:
        assert (await admin.get("/metrics")).status_code == 401
        assert (await admin.get("/metrics", headers=keyed.header("bob"))).status_code == 403
        assert (await admin.get("/metrics", headers=keyed.header("alice"))).status_code == 200
        assert (await admin.get("/health")).status_code == 200
