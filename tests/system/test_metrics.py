"""Every request is in the metrics, by how it ended; and scrapes are as they should be."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from router.access.keys import generate_key
from tests.metric_rules import problems, promtool, promtool_problems
from tests.system.clusters import LOOPBACK
from tests.system.shells import BIN, Shell, children_of
from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc

PLACES = 4
LONG = 1500
"""Tokens of answers that nobody will wait for: at 10 ms each."""
SETTINGS: dict[str, Any] = {
    "worker": {
        "runner": "arithmetic",
        "ucx_env": LOOPBACK,
        "cache_bytes": 4 * 1024 * 1024,
        "step_s": 0.01,
        "metrics_port": 0,
    },
    "router": {"admin_port": 0, "max_waiting": PLACES, "max_attempts": 1, "split": "always"},
}
Outcomes = Counter[tuple[str, str]]


class PublicServers:
    """A cluster's doors, with the keys of a client, and of one with a small quota."""

    def __init__(self, shell: Shell, found: dict[str, str], keys: dict[str, str]) -> None:
        self.shell = shell
        self.grpc, self.http, self.admin = found["grpc"], found["http"], found["admin"]
        self.keys = keys
        self.sent: Outcomes = Counter()

    def header(self, name: str | None) -> dict[str, str]:
        return {} if name is None else {"authorization": f"Bearer {self.keys[name]}"}

    def scrape(self) -> str:
        return _page(f"http://{self.admin}/metrics")

    def worker_scrapes(self) -> list[str]:
        pages = re.findall(r'tandem_worker_info\{.*metrics_address="([^"]+)"', self.scrape())
        return [_page(f"http://{page}/metrics") for page in pages]


def _page(url: str) -> str:
    return httpx2.get(url, trust_env=False, timeout=60).text


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PublicServers]:
    with _running(tmp_path_factory.mktemp("metrics")) as found:
        yield found


@contextmanager
def _running(folder: Path) -> Iterator[PublicServers]:
    drawn = {name: generate_key() for name in ("client", "poor")}
    lines = {name: {"hash": hashed} for name, (_, hashed) in drawn.items()}
    (folder / "keys.yaml").write_text(
        yaml.safe_dump({**lines, "poor": {**lines["poor"], "requests_per_minute": 1}})
    )
    settings = {**SETTINGS, "router": {**SETTINGS["router"], "keys_file": f"{folder}/keys.yaml"}}
    (folder / "cluster.yaml").write_text(yaml.safe_dump(settings))
    up = [str(BIN / "python"), "-m", "cluster", "up", "--without-ray"]
    shell = Shell([*up, "-c", f"{folder}/cluster.yaml"], {})
    try:
        at = dict(re.findall(r"(grpc|http|admin) (\S+:\d+)", shell.line_with("^router-0").string))
        shell.line_with("^ready")
        yield PublicServers(shell, at, {name: key for name, (key, _) in drawn.items()})
    finally:
        shell.end(signal.SIGTERM)


class HttpClient:
    """Sends requests, and notes for each how the metrics should call its end."""

    door = "http"

    def __init__(self, doors: PublicServers) -> None:
        self._doors = doors
        base_url = f"http://{doors.http}"
        self._http = httpx2.AsyncClient(base_url=base_url, trust_env=False, timeout=60)

    async def close(self) -> None:
        await self._http.aclose()

    async def whole(self, outcome: str, key: str | None = "client", **fields: Any) -> None:
        self._doors.sent[self.door, outcome] += 1
        body = {"prompt": [1, 2, 3], "max_tokens": 3, "ignore_eos": True, **fields}
        header = self._doors.header(key)
        response = await self._http.post("/v1/completions", json=body, headers=header, timeout=60)
        assert (response.status_code == 200) == (outcome == "ok"), response.text

    @asynccontextmanager
    async def stream(self, outcome: str, **fields: Any) -> AsyncIterator[AsyncIterator[Any]]:
        """What comes of one that has begun; it is left when the block ends."""
        self._doors.sent[self.door, outcome] += 1
        body = {"prompt": [1, 2, 3], "stream": True, "ignore_eos": True, **fields}
        request = self._http.build_request(
            "POST", "/v1/completions", json=body, headers=self._doors.header("client"), timeout=60
        )
        response = await self._http.send(request, stream=True)
        try:
            pieces = response.aiter_bytes()
            await anext(pieces)
            yield pieces
        finally:
            await response.aclose()

    async def unreadable(self) -> None:
        for path in ("/v1/completions", "/v1/chat/completions"):
            self._doors.sent[self.door, "invalid"] += 1
            header = self._doors.header("client")
            response = await self._http.post(path, content=b'{"prompt": ', headers=header)
            assert response.status_code == 400


class GrpcClient:
    """The same over gRPC."""

    door = "grpc"

    def __init__(self, doors: PublicServers) -> None:
        self._doors = doors
        self._channel = grpc.aio.insecure_channel(doors.grpc)
        self._stub = rpc.InferenceStub(self._channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        await self._channel.close()

    async def whole(self, outcome: str, key: str | None = "client", **fields: Any) -> None:
        self._doors.sent[self.door, outcome] += 1
        call = self._call(key, **{"max_tokens": 3, **fields})
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError:
            assert outcome != "ok"
        else:
            assert outcome == "ok"

    @asynccontextmanager
    async def stream(self, outcome: str, **fields: Any) -> AsyncIterator[AsyncIterator[Any]]:
        self._doors.sent[self.door, outcome] += 1
        call = self._call("client", **fields)
        pieces = aiter(call)
        try:
            await anext(pieces)
            yield pieces
        finally:
            call.cancel()

    async def unreadable(self) -> None:
        self._doors.sent[self.door, "invalid"] += 1
        method = self._channel.unary_stream("/tandem.v1.Inference/Generate")
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(aiter(method(b"\xff\xff", metadata=self._metadata("client"))))

    def _call(self, key: str | None, **fields: Any) -> Any:
        if "temperature" in fields:
            fields["sampling"] = pb.Sampling(temperature=fields.pop("temperature"))
        prompt = pb.TokenIds(ids=[1, 2, 3])
        request = pb.GenerateRequest(token_ids=prompt, ignore_eos=True, **fields)
        return self._stub.Generate(request, timeout=60, metadata=self._metadata(key))

    def _metadata(self, key: str | None) -> list[tuple[str, str]]:
        return list(self._doors.header(key).items())


@asynccontextmanager
async def a_client(kind: type[HttpClient | GrpcClient], doors: PublicServers) -> AsyncIterator[Any]:
    client = kind(doors)
    try:
        yield client
    finally:
        await client.close()


async def _send_all_kinds(client: Any) -> None:
    """Whole, streamed, left, refused for all sorts of reasons."""
    for _ in range(3):
        await client.whole("ok")
    async with client.stream("ok", max_tokens=4) as pieces:
        async for _ in pieces:
            pass
    for _ in range(2):
        async with client.stream("cancelled", max_tokens=LONG):
            pass
    await client.whole("invalid", temperature=-1.0)
    await client.unreadable()
    await client.whole("not_found", model="another")
    await client.whole("unauthenticated", key=None)


async def _all_at_rest(doors: PublicServers) -> str:
    """The scrape, once no request is under way."""
    async with asyncio.timeout(60):
        while True:
            scrape = await asyncio.to_thread(doors.scrape)
            if not _counts(scrape, "tandem_requests_in_flight").total():
                return scrape


def _counts(scrape: str, name: str, *labels: str) -> Counter[tuple[str, ...]]:
    """Of one series, by these labels; over all the others."""
    found: Counter[tuple[str, ...]] = Counter()
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sample.labels[label] for label in labels)] += int(sample.value)
    return +found


async def test_the_metrics_have_every_request_by_how_it_ended(doors: PublicServers) -> None:
    async with a_client(HttpClient, doors) as http, a_client(GrpcClient, doors) as rpcs:
        for client in (http, rpcs):
            await _send_all_kinds(client)
        await http.whole("ok", key="poor")
        await rpcs.whole("over_quota", key="poor")
        await http.whole("over_quota", key="poor")
        await _all_at_rest(doors)
        async with http.stream("cancelled", max_tokens=LONG, n=PLACES):
            await http.whole("overloaded")
            await rpcs.whole("overloaded")
        await _all_at_rest(doors)
        async with (
            http.stream("unavailable", max_tokens=LONG) as left,
            rpcs.stream("unavailable", max_tokens=LONG) as right,
        ):
            os.kill(_decode_worker(doors), signal.SIGKILL)
            assert b"error" in b"".join([piece async for piece in left])
            with pytest.raises(grpc.aio.AioRpcError):
                async for _ in right:
                    pass
    scrape = await _all_at_rest(doors)
    counted = _counts(scrape, "tandem_requests_total", "door", "outcome")
    assert counted == doors.sent
    assert counted.total() == doors.sent.total()
    reasons = _counts(scrape, "tandem_refusals_total", "reason")
    assert reasons == {
        **{("invalid",): 5, ("not_found",): 2, ("unauthenticated",): 2},
        **{("quota_requests",): 2, ("router_full",): 2, ("workers_failed",): 2},
    }
    served = sum(count for (_, how), count in doors.sent.items() if how in ("ok", "cancelled"))
    assert reasons.total() == doors.sent.total() - served


def _decode_worker(doors: PublicServers) -> int:
    (found,) = [
        process_id
        for process_id in children_of(doors.shell.process.pid)
        if b"decode_worker" in Path(f"/proc/{process_id}/cmdline").read_bytes()
    ]
    return found


def test_scrapes_of_router_and_workers_keep_the_rules(doors: PublicServers) -> None:
    scrapes = [doors.scrape(), *doors.worker_scrapes()]
    assert len(scrapes) >= 2
    for scrape in scrapes:
        assert problems(scrape) == []
        assert "tandem_worker_steps_total{" in scrape
        assert "process_resident_memory_bytes " in scrape


@pytest.mark.skipif(promtool() is None, reason="no promtool on PATH, and none named by PROMTOOL")
def test_promtool_finds_nothing_wrong_with_them(doors: PublicServers) -> None:
    tool = promtool()
    assert tool is not None
    for scrape in (doors.scrape(), *doors.worker_scrapes()):
        assert promtool_problems(tool, scrape) == ""
