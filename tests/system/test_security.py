"""Whole clusters that ask for keys and certificates, as clients and strangers see them."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx2
import msgspec
import openai
import pytest
import yaml

from cluster.bundled import BUNDLED_MODEL
from router.access.keys import generate_key
from runtime.session import SessionClosed, open_session
from tests.certificates import Authority
from tests.system.clusters import ARITHMETIC, LOOPBACK, a_client, a_cluster, a_request, answer
from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc
from wire.messages import Hello

ROOT = Path(__file__).resolve().parents[2]
MARK = "swordfish"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def run(*arguments: str) -> str:
    """What a command of `tandem` prints."""
    command = [sys.executable, "-m", "cluster", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@contextmanager
def up(config: Path, *arguments: str) -> Iterator[dict[str, str]]:
    """`tandem up`; the addresses that it prints, by door."""
    command = [sys.executable, "-m", "cluster", "up", "--without-ray", "--config", str(config)]
    with subprocess.Popen(
        [*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield _addresses(process)
        finally:
            process.send_signal(signal.SIGTERM)


def _addresses(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    doors: dict[str, str] = {}
    for line in process.stdout:
        if line.startswith("router"):
            doors = dict(re.findall(r"(grpc|http|admin) (\S+:\d+)", line))
        if line.startswith("ready"):
            return doors
    raise AssertionError("it ended before it was ready")


def test_one_file_sets_up_keys_and_certificates_for_everything(
    tmp_path: Path, authority: Authority
) -> None:
    keys = tmp_path / "keys.yaml"
    key = run("key", "new", "alice", "--file", str(keys)).strip()
    config = tmp_path / "cluster.yaml"
    settings = {
        "tls": msgspec.to_builtins(authority.member()),
        "router": {
            "door_tls": msgspec.to_builtins(authority.door()),
            "keys_file": str(keys),
            "admin_port": 0,
        },
        "worker": {"runner": "arithmetic", "ucx_env": LOOPBACK, "cache_bytes": 4 * 1024 * 1024},
    }
    config.write_text(yaml.safe_dump(settings))
    with up(config) as doors:
        context = ssl.create_default_context(cafile=str(authority.file))
        url = f"https://{doors['http']}/v1"
        with httpx2.Client(verify=context, trust_env=False, timeout=60) as http:
            client = openai.OpenAI(base_url=url, api_key=key, http_client=http, max_retries=0)
            done = client.completions.create(model="tiny-python", prompt="a", max_tokens=5)
            assert done.usage is not None
            assert done.usage.completion_tokens == 5
            with pytest.raises(openai.AuthenticationError, match="unknown API key"):
                client.with_options(api_key=key + "x").models.list()
        with pytest.raises(httpx2.HTTPError):
            httpx2.get(f"http://{doors['http']}/health", trust_env=False)
        _check_grpc(doors["grpc"], authority, key)
        metrics = httpx2.get(f"http://{doors['admin']}/metrics", trust_env=False, timeout=60).text
        assert 'tandem_requests_total{door="grpc",model="tiny-python",outcome="ok"} 1.0' in metrics


def _check_grpc(address: str, authority: Authority, key: str) -> None:
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
    with grpc.secure_channel(address, credentials) as channel:
        stub = rpc.InferenceStub(channel)
        request = pb.GenerateRequest(text="a", max_tokens=5)
        metadata = (("authorization", f"Bearer {key}"),)
        assert list(stub.Generate(request, metadata=metadata))
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Generate(request))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_routers_and_workers_speak_to_members_alone(
    tmp_path: Path, authority: Authority
) -> None:
    stranger = Authority(tmp_path / "stranger")
    theirs = msgspec.structs.replace(stranger.member(), ca=str(authority.file))
    tls = msgspec.to_builtins(authority.member())
    with a_cluster({**ARITHMETIC, "tls": tls}) as cluster:
        async with a_client(cluster) as stub:
            _, last = await answer(stub, a_request(list(range(100)), 9))
        assert last.timing.transfer.num_blocks == 7
        for address in [*cluster.worker_addresses, cluster.addresses.fleet]:
            for tls in (None, theirs):
                with pytest.raises(SessionClosed):
                    await open_session(address, Hello(caller_id="x"), timeout_s=60, tls=tls)


async def test_no_key_finds_what_another_has_cached_unless_they_share(tmp_path: Path) -> None:
    drawn = {name: generate_key() for name in ("alice", "bob", "carol", "dave")}
    entries = {name: {"hash": hashed} for name, (_, hashed) in drawn.items()}
    for name in ("carol", "dave"):
        entries[name]["share_group"] = "team"
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump(entries))
    with a_cluster({**ARITHMETIC, "router.keys_file": str(keys)}) as cluster:
        async with a_client(cluster) as stub:

            async def hits(name: str, **fields: str) -> bool:
                request = a_request([7 * n % 2048 for n in range(200)], 2, **fields)
                metadata = (("authorization", f"Bearer {drawn[name][0]}"),)
                call = stub.Generate(request, metadata=metadata)
                return [message async for message in call][-1].usage.cached_tokens > 0

            assert [await hits("alice"), await hits("alice")] == [False, True]
            assert [await hits("bob"), await hits("bob")] == [False, True]
            assert not await hits("alice", cache_salt="narrower")
            assert await hits("alice", cache_salt="narrower")
            assert [await hits("carol"), await hits("dave")] == [False, True]


def test_routers_behind_one_port_count_what_a_key_uses_together(tmp_path: Path) -> None:
    key, hashed = generate_key()
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump({"alice": {"hash": hashed, "requests_per_minute": 6}}))
    settings = {**ARITHMETIC, "num_routers": 2, "router.keys_file": str(keys)}
    body = {"prompt": [1, 2, 3], "max_tokens": 1}
    headers = {"authorization": f"Bearer {key}"}
    with a_cluster(settings) as cluster:
        url = f"http://{cluster.addresses.http}/v1/completions"
        started = time.monotonic()
        codes = [  # each over a connection of its own, which either router may get
            httpx2.post(url, json=body, headers=headers, trust_env=False, timeout=60).status_code
            for _ in range(30)
        ]
        come_back = (time.monotonic() - started) / 10
    refused = codes.count(429)
    assert 30 - refused <= 7 + come_back  # alone, each of them would let 6 pass
    assert refused + codes.count(200) == 30


class Logged:
    """Processes that log all they can to files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str) -> dict[str, str]:
        """The line of JSON that it prints when it is ready."""
        with open(self._folder / name, "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "TANDEM_LOG_LEVEL": "debug"},
            )
        self.processes[name] = process
        assert process.stdout is not None
        ready: dict[str, str] = msgspec.json.decode(process.stdout.readline())
        return ready

    def logs(self) -> dict[str, str]:
        """All that they ever logged, after their end."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.communicate(timeout=60)
        return {path.name: path.read_text() for path in self._folder.iterdir()}


def test_no_log_holds_a_word_of_a_prompt_or_a_key(tmp_path: Path) -> None:
    logged = Logged(tmp_path / "logs")
    keys = tmp_path / "keys.yaml"
    key = run("key", "new", "alice", "--file", str(keys)).strip()
    settings = msgspec.json.encode(
        {"keys_file": str(keys), "join_wait_s": 0.1, "split": "always"}
    ).decode()
    router = logged.start("router", "router", "--model", str(BUNDLED_MODEL), "--settings", settings)
    worker = msgspec.json.encode({"ucx_env": LOOPBACK, "cache_bytes": 4 * 1024 * 1024}).decode()
    for room in ("prefill_worker", "decode_worker"):
        arguments = ["--model", str(BUNDLED_MODEL), "--router", router["fleet"]]
        logged.start(room, room, *arguments, "--runner", "arithmetic", "--settings", worker)
    try:
        _ask_over_grpc(router["grpc"], key)
        _succeed_be_refused_and_fail(logged, router["http"], key)
    finally:
        logs = logged.logs()
    assert "joined" in logs["router"]
    assert "is lost" in logs["router"]
    assert [name for name, text in logs.items() if TRACE not in text] == []
    assert [name for name, text in logs.items() if MARK in text or key[-20:] in text] == []


def _ask_over_grpc(address: str, key: str) -> None:
    """The client's trace is in what all processes log of it; what it says is not."""
    metadata = (("authorization", f"Bearer {key}"), ("traceparent", f"00-{TRACE}-{'1' * 16}-01"))
    with grpc.insecure_channel(address) as channel:
        stub = rpc.InferenceStub(channel)
        request = pb.GenerateRequest(text=f"the {MARK} is {MARK}", max_tokens=9, ignore_eos=True)
        answers = list(stub.Generate(request, metadata=metadata, timeout=60))
        assert all(each.request_id.startswith(TRACE) for each in answers)
        served = answers[-1].served_by
        assert served.prefill_worker_id != served.decode_worker_id
        request.constraint.regex = f"{MARK}["
        with pytest.raises(grpc.RpcError):
            list(stub.Generate(request, metadata=metadata, timeout=60))


def _succeed_be_refused_and_fail(logged: Logged, address: str, key: str) -> None:
    headers = {"authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=f"http://{address}", trust_env=False, timeout=60) as http:

        def status(path: str = "/v1/completions", **body: object) -> int:
            prompt = {"prompt": f"the {MARK} is {MARK}", "max_tokens": 3}
            return http.post(path, json={**prompt, **body}, headers=headers).status_code

        chat = [{"role": "user", "content": MARK}]
        assert status() == 200
        assert status("/v1/chat/completions", messages=chat) == 200
        assert status(stop=MARK, bad_words=[MARK], cache_salt=MARK, logprobs=2) == 200
        assert status(regex=f"{MARK}[") == 400
        assert status(guided_grammar=f"start: {MARK}") == 400
        assert status("/v1/chat/completions", messages=chat, tools=[{"type": MARK}]) == 400
        assert status("/v1/chat/completions", messages=chat, chat_template=f"{{% {MARK}") == 400
        assert status("/tokenize") == 200
        assert status(prompt=f"{MARK} and " * 100_000) == 400
        assert status(prompt=MARK * 50_000) == 400
        assert status(temperature=MARK) == 400
        assert status("/v1/chat/completions", messages=MARK) == 400
        assert status(f"/{MARK}") == 404
        assert http.post("/v1/completions", json={"prompt": MARK}).status_code == 401
        assert http.post("/v1/completions", content=MARK, headers=headers).status_code == 400
        logged.processes["decode_worker"].kill()
        logged.processes["prefill_worker"].kill()
        codes = {status() for _ in range(5)}
        assert codes <= {500, 503}
